"""API keys: their form, the file of their hashes, and the commands that change it."""

from __future__ import annotations

import hashlib
import json
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rondo.errors import ConfigError
from rondo.local import cli
from rondo.service import api_keys
from rondo.service.api_keys import ApiKey, KeyTable, changing_keys, digest, id_of, new_key


def key(key_id: str, secret: str, **fields: object) -> ApiKey:
    return ApiKey(id=key_id, sha256=digest(secret), **fields)  # type: ignore[arg-type]


def test_a_key_has_an_id_and_256_random_bits() -> None:
    one, other = new_key("ada-2_x"), new_key("ada-2_x")
    assert id_of(one) == id_of(other) == "ada-2_x"
    secrets = {one.rpartition("-")[2], other.rpartition("-")[2]}
    assert len(secrets) == 2
    assert all(len(bytes.fromhex(secret)) == 32 for secret in secrets)
    assert digest(one) == hashlib.sha256(one.encode()).hexdigest()
    with pytest.raises(ValueError, match="id"):
        new_key("a b")


def test_only_the_whole_key_is_found() -> None:
    secret, other = new_key("ada"), new_key("bob")
    table = KeyTable((key("ada", secret),))
    found = table.find(secret)
    assert found is not None
    assert found.id == "ada"
    wrong = ["", "ada", "rondo-", "rondo-ada-", secret[:-1], secret + "0", other, secret.upper()]
    assert [table.find(text) for text in [*wrong, "rondo-ada-\udcff", digest(secret)]] == [
        None for _ in range(len(wrong) + 2)
    ]


def test_hashes_are_compared_in_constant_time_also_for_unknown_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("rondo.service.api_keys.hmac.compare_digest", compare)
    table = KeyTable((key("ada", new_key("ada")),))
    for text in (new_key("ada"), new_key("bob"), "nonsense"):
        assert table.find(text) is None
    assert [len(one) == len(other) == 64 for one, other in compared] == [True] * 3


def test_keys_expire_by_the_calendar() -> None:
    now = datetime.now(UTC)
    assert key("a", "x", expires_at=now - timedelta(seconds=1)).expired()
    assert not key("a", "x", expires_at=now + timedelta(minutes=1)).expired()
    assert not key("a", "x").expired()


def fail_while_changing(path: Path) -> None:
    with changing_keys(path, "X") as keys:
        keys.clear()
        _ = 1 / 0


def test_a_file_is_changed_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with changing_keys(path, "X") as keys:
        keys.append(key("ada", "secret-a", requests_per_minute=5))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        fail_while_changing(path)
    assert path.read_bytes() == before
    path.chmod(0o644)
    with changing_keys(path, "X") as keys:
        keys.append(key("bob", "secret-b"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [one.id for one in api_keys.read_keys(path, "X")] == ["ada", "bob"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys.json"]
    assert b"secret-a" not in path.read_bytes()


CANARY = "canary-4711"
HASH = "0" * 64


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (CANARY, "is damaged$"),
        (json.dumps({"keys": [{"id": CANARY, "sha256": "short"}]}), r"at \$.keys\[0\].sha256"),
        (json.dumps({"keys": [{"id": "a", "sha256": HASH, "scopes": [CANARY]}]}), "scopes"),
        (json.dumps({"keys": [{"id": "a", "sha256": HASH, CANARY: 1}]}), r"keys\[0\]"),
        (json.dumps({"keys": [{"id": "a", "sha256": HASH}] * 2}), "twice"),
        (json.dumps({"keys": [{"id": "a", "sha256": HASH, "tokens_per_minute": 0}]}), "tokens"),
        (json.dumps({"keys": [{"id": "a", "sha256": HASH, "expires_at": "2026-01-01"}]}), "expir"),
        (json.dumps({CANARY: []}), "damaged"),
        ("\udcff", "damaged"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_without_what_is_in_it(
    tmp_path: Path, text: str, match: str
) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=match) as caught:
        api_keys.read_keys(path, "RONDO_KEYS")
    assert caught.value.setting == "RONDO_KEYS"
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        api_keys.read_keys(tmp_path / "none", "RONDO_KEYS")


class Commands:
    """`rondo keys`, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def run(self, *args: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["rondo", "keys", *args])
        code = cli.main()
        out, err = self._capsys.readouterr()
        return code, out, err


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    monkeypatch.delenv("RONDO_KEYS", raising=False)
    return Commands(monkeypatch, capsys)


def test_new_list_and_revoke(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    monkeypatch.setenv("RONDO_KEYS", str(path))
    limits = ("--requests-per-minute", "60", "--tokens-per-minute", "9000")
    code, out, err = commands.run("new", "ada", *limits, "--concurrent-requests", "4")
    secret = out.strip()
    assert (code, "shown once" in err) == (0, True)
    table = KeyTable(api_keys.read_keys(path, "X"))
    ada = table.find(secret)
    assert ada is not None
    assert (ada.scopes, ada.expires_at) == (("inference",), None)
    assert (ada.requests_per_minute, ada.tokens_per_minute) == (60, 9000)
    assert ada.concurrent_requests == 4

    scopes = ("--scope", "admin", "--scope", "inference")
    assert commands.run("new", "boss", *scopes, "--days", "30")[0] == 0
    boss = api_keys.read_keys(path, "X")[1]
    assert boss.scopes == ("admin", "inference")
    assert boss.expires_at is not None
    assert timedelta(days=29) < boss.expires_at - datetime.now(UTC) <= timedelta(days=30)

    code, out, _ = commands.run("list")
    assert code == 0
    assert secret not in out
    assert digest(secret) not in out
    assert out.splitlines()[1].split()[:3] == ["ada", "inference", "never"]
    assert commands.run("revoke", "ada")[0] == 0
    assert KeyTable(api_keys.read_keys(path, "X")).find(secret) is None
    assert secret not in path.read_text()


def test_commands_name_what_is_wrong(commands: Commands, tmp_path: Path) -> None:
    path = str(tmp_path / "keys.json")
    assert commands.run("list")[::2] == (
        2,
        "rondo: --file: is not given, and RONDO_KEYS is not set\n",
    )
    assert commands.run("new", "ada", "--file", path)[0] == 0
    for args, text in {
        ("new", "ada"): "already",
        ("new", "a b"): "id",
        ("revoke", "bob"): "no key 'bob'",
    }.items():
        code, out, err = commands.run(*args, "--file", path)
        assert (code, out) == (2, "")
        assert text in err
    code, _, err = commands.run("new", "ada", "--file", str(tmp_path / "none" / "keys.json"))
    assert code == 2
    assert "No such file" in err
