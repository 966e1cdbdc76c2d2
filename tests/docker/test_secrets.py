"""What the one-shot `secrets` service writes, for whom, and whether nats-server takes it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from rondo.bus.permissions import OPERATOR, ROLES
from rondo.bus.url import parse_servers, userinfo_of
from rondo.local.nats_server import find_binary

FOLDER = Path(__file__).parents[2] / "deploy" / "compose"


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script on folders of this test, which an ordinary user may run."""
    spec = importlib.util.spec_from_file_location("compose_secrets", FOLDER / "secrets.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("nats", *module.PROGRAMS):
        (tmp_path / "secrets" / name).mkdir(parents=True)
    monkeypatch.setattr(module, "ROOT", tmp_path / "secrets")
    monkeypatch.setattr(module, "DATA", tmp_path / "data")
    monkeypatch.setattr(module, "OWNER", os.getuid())
    monkeypatch.setattr(module.os, "chown", lambda *_: None)
    return module


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_every_user_has_a_password_that_nobody_else_reads(
    secrets: ModuleType, tmp_path: Path
) -> None:
    assert secrets.main() == 0
    users = {}
    for user in ROLES:
        file = "nats/operator_url" if user == OPERATOR else f"{user}/nats_url"
        (server,) = parse_servers((tmp_path / "secrets" / file).read_text())
        name, password = userinfo_of(server) or ("", "")
        assert name == user
        users[user] = password
    assert len(set(users.values())) == len(users)
    assert min(map(len, filter(None, users.values()))) >= 40
    for path in (tmp_path / "secrets").rglob("*"):
        assert not path.stat().st_mode & 0o077, path


def test_passwords_stay_as_they_are(
    secrets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets.main()
    before = files(tmp_path)
    secrets.main()
    assert files(tmp_path) == before
    monkeypatch.setattr(secrets, "HOSTS", ["nats", "nats-2"])  # the bus becomes a cluster
    secrets.main()
    servers = parse_servers((tmp_path / "secrets" / "worker" / "nats_url").read_text())
    assert [server.rpartition("@")[2] for server in servers] == ["nats:4222", "nats-2:4222"]
    assert (tmp_path / "secrets/nats/worker.password").read_text() in servers[1]


@pytest.mark.parametrize("name", ["single", "cluster"])
def test_nats_server_takes_the_configuration(
    secrets: ModuleType, tmp_path: Path, name: str
) -> None:
    secrets.main()
    config = tmp_path / "nats.conf"
    config.write_text((FOLDER / "nats" / f"{name}.conf").read_text())
    (tmp_path / "secrets" / "users.conf").symlink_to(tmp_path / "secrets/nats/users.conf")
    (tmp_path / "secrets" / "routes.conf").symlink_to(tmp_path / "secrets/nats/routes.conf")
    done = subprocess.run(
        [find_binary(), "--config", str(config), "-t"],
        env={**os.environ, "NATS_NAME": "nats"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
