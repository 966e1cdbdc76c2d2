"""The bus of a local cluster: for its own programs, and for whoever started it."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rondo.local.run_dir import read_state
from tests.support.cluster import RONDO, clean_env, running


@pytest.mark.timeout(300)
def test_nobody_else_gets_in_and_no_program_is_refused(tmp_path: Path, fast_profile: Path) -> None:
    options = ("--engine", "emulated", "--workers", "2", "--profile", str(fast_profile))
    with running(tmp_path, *options) as cluster:
        for path in (tmp_path / "cluster.json", tmp_path / "nats"):
            assert not path.stat().st_mode & 0o077, path
        url = urlsplit(read_state(tmp_path).nats_url)
        assert url.username == "operator"
        assert "refused" in _greeted(url.port or 0, b"CONNECT {}\r\nPING\r\n")
        assert cluster.cli("ask", "hello").returncode == 0
        assert len(cluster.status()["instances"]) == 2
        log = (tmp_path / "nats" / "nats-server.log").read_text()
    assert "Permissions Violation" not in log
    for file in tmp_path.glob("*.log"):
        assert "permissions violation" not in file.read_text().lower(), file
        assert str(url.password) not in file.read_text(), file


def _greeted(port: int, said: bytes) -> str:
    """What a nats-server makes of a stranger: `refused` or its answer."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        greeting = connection.makefile("rb").readline()
        assert json.loads(greeting.removeprefix(b"INFO "))["auth_required"]
        connection.sendall(said)
        answer = connection.makefile("rb").read()
    return "refused" if b"Authorization Violation" in answer else answer.decode()


def test_files_for_tls_need_a_bus_that_has_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [RONDO, "up", "--engine", "emulated", "--port", "0", "--run-dir", str(tmp_path)],
        env=clean_env(NATS_CA="/nowhere"),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "NATS_CA" in done.stderr
