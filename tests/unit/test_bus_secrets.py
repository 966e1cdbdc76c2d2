"""`rondo secrets`: who gets a password, who may read it, and that it stays."""

from __future__ import annotations

import os
import subprocess
from argparse import ArgumentParser
from pathlib import Path

import pytest

from rondo.bus.permissions import ROLES
from rondo.bus.url import parse_servers, userinfo_of
from rondo.errors import ConfigError
from rondo.local import secrets_cmd
from rondo.local.bus_secrets import BusSecrets, address
from rondo.local.nats_server import find_binary


def rondo_secrets(*arguments: str) -> int:
    """As the command line does."""
    parser = ArgumentParser()
    secrets_cmd.add_parser(parser.add_subparsers())
    args = parser.parse_args(["secrets", *arguments])
    code: int = args.run(args)
    return code


def test_each_role_has_a_file_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert rondo_secrets(str(folder), "--host", "bus", "--tls") == 0
    passwords = {}
    for role in ROLES:
        [server] = parse_servers((folder / f"{role}.url").read_text())
        assert server.endswith("@bus:4222")
        assert server.startswith("tls://")
        user, passwords[role] = userinfo_of(server) or ("", "")
        assert user == role
        assert str(passwords[role]) in (folder / "users.conf").read_text()
    assert len(set(passwords.values())) == len(ROLES)
    assert all(len(str(password)) >= 43 for password in passwords.values())  # 256 bits
    for path in (folder, *folder.iterdir()):
        assert not path.stat().st_mode & 0o077, path
    assert not (folder / "routes.conf").exists()  # one server has no routes


def test_what_exists_is_kept_and_instances_come_in_place_of_all(tmp_path: Path) -> None:
    rondo_secrets(str(tmp_path))
    before = (tmp_path / "gateway.url").read_text()
    rondo_secrets(
        str(tmp_path), "--worker", "w-1", "--worker", "w-2", "--host", "a", "--host", "b:5"
    )
    assert [
        server.split("@")[1] for server in parse_servers((tmp_path / "gateway.url").read_text())
    ] == ["a:4222", "b:5"]
    assert before.split("@")[0] in (tmp_path / "gateway.url").read_text()
    users = (tmp_path / "users.conf").read_text()
    assert '"worker.w-1"' in users
    assert '"worker.w-2"' in users
    assert '"worker"' not in users
    config = tmp_path / "nats.conf"
    config.write_text("include users.conf\ninclude routes.conf\n")
    command = [find_binary(), "--config", str(config), "-t"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr


def test_wrong_options_are_named(tmp_path: Path) -> None:
    wrong = {
        "--host": ("--host", "a b"),
        "--worker": ("--worker", "a.b"),
    }
    for setting, arguments in wrong.items():
        with pytest.raises(ConfigError) as error:
            rondo_secrets(str(tmp_path), *arguments)
        assert error.value.setting == setting


@pytest.mark.parametrize("number", ["0", "1025", "x"])
def test_a_wrong_number_of_workers_is_named(
    tmp_path: Path, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        rondo_secrets(str(tmp_path), "--kubernetes", "r", "--workers", number)
    problem = f"argument --workers: '{number}' is no whole number from 1 to 1024"
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("host", ["", "a b", "u:p@h", "h:port", "h/path", "h:99999"])
def test_no_hosts(host: str) -> None:
    with pytest.raises(ConfigError, match="--host"):
        address(host)


def test_a_file_is_never_open_to_others(tmp_path: Path) -> None:
    store = BusSecrets(tmp_path, os.getuid())
    before = os.umask(0)
    try:
        store.write(tmp_path / "x", "secret")
        store.write(tmp_path / "x", "another")
    finally:
        os.umask(before)
    assert (tmp_path / "x").read_text() == "another"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o400
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
