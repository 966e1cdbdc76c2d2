"""What only NATS can do to a connection: dead addresses, refusals, JetStream off."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path

import pytest

from rondo.bus.nats import NatsBus
from rondo.bus.protocol import Incoming, KeyUpdate
from rondo.errors import BusUnavailable, ConfigError
from rondo.local.nats_server import find_binary
from rondo.wire.messages import Event, MacroRecord, StatusRequest
from tests.support.collect import Collector, eventually
from tests.support.nats import Proxy, ServerUnderTest, free_port

STATUS = "rondo.v1.status"
RECORD = MacroRecord(
    macro_id="m", model="m", owner_id="o", epoch=1, beat=1, max_model_len=1, instance_ids=()
)


async def test_connect_waits_for_a_server_and_says_where(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    bus = NatsBus(f"nats://user:secret@127.0.0.1:{port}", name="test")
    failed = f"bus_connect_failed address=nats://127.0.0.1:{port}"
    with caplog.at_level(logging.INFO, "rondo.bus"):
        connecting = asyncio.create_task(bus.connect())
        await eventually(lambda: caplog.text.count(failed) >= 2, "two tries are logged")
        assert not bus.connected
        server = ServerUnderTest(tmp_path, port=port)
        await server.start()
        await asyncio.wait_for(connecting, 10)
    assert bus.connected
    assert "refused" in caplog.text.lower() or "Connect call failed" in caplog.text
    assert "secret" not in caplog.text + bus.url
    await bus.close()
    await server.stop()


async def test_connect_can_be_given_up() -> None:
    bus = NatsBus(f"nats://127.0.0.1:{free_port()}", name="test")
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bus.connect(), 0.3)
    await bus.close()
    assert asyncio.all_tasks() == before


async def test_what_is_no_nats_server_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    other = await asyncio.start_server(answer, "127.0.0.1", 0)
    bus = NatsBus(f"127.0.0.1:{other.sockets[0].getsockname()[1]}", name="test")
    with caplog.at_level(logging.INFO, "rondo.bus"):
        connecting = asyncio.create_task(bus.connect())
        await eventually(lambda: caplog.text.count("bus_connect_failed") >= 2, "two tries")
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    await bus.close()
    other.close()


async def test_the_next_server_of_the_list_is_tried(server: ServerUnderTest) -> None:
    bus = NatsBus(f"127.0.0.1:{free_port()},{server.url}", name="test")
    await asyncio.wait_for(bus.connect(), 5)
    assert bus.connected
    await bus.close()


def test_wrong_url_stops_the_start() -> None:
    with pytest.raises(ConfigError):
        NatsBus("http://127.0.0.1", name="test")


async def test_all_is_restored_after_the_server_refused_us(server: ServerUnderTest) -> None:
    proxy = Proxy(server.url)
    await proxy.start()
    bus = NatsBus(proxy.url, name="test")
    await bus.connect()
    got: Collector[Incoming] = Collector()
    updates: Collector[KeyUpdate] = Collector()
    back = asyncio.Event()
    bus.on_reconnect(back.set)
    await bus.subscribe(STATUS, got)
    bucket = await bus.key_value("rondo_macros")
    await bucket.watch(updates)
    # nats-py closes itself for ever after such an error.
    await proxy.say(b"-ERR 'Unknown Protocol Operation'\r\n")
    await asyncio.wait_for(back.wait(), 5)
    assert bus.connected
    await bus.publish(STATUS, StatusRequest())
    await got.wait(1)
    await bucket.put("m", RECORD)
    await updates.wait(1)
    assert bus.stats.reconnects == 1
    await bus.close()
    await proxy.stop()


async def test_without_jetstream_buckets_say_so(tmp_path: Path) -> None:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        find_binary(), "-a", "127.0.0.1", "-p", str(port), "-l", str(tmp_path / "log")
    )
    bus = NatsBus(f"127.0.0.1:{port}", name="test")
    await asyncio.wait_for(bus.connect(), 10)
    with pytest.raises(BusUnavailable, match="JetStream"):
        await bus.key_value("rondo_macros")
    await bus.close()
    process.terminate()
    await process.wait()


async def test_watch_notices_that_its_consumer_vanished(
    server: ServerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rondo.bus.nats_watch.HEARTBEAT_S", 0.1)
    monkeypatch.setattr("rondo.bus.nats_watch.SILENCE_LIMIT_S", 0.3)
    bus = NatsBus(server.url, name="test")
    await bus.connect()
    bucket = await bus.key_value("rondo_macros")
    await bucket.put("m", RECORD)
    updates: Collector[KeyUpdate] = Collector()
    watch = await bucket.watch(updates)
    await server.delete_consumers("KV_rondo_macros")
    assert (await updates.wait(2))[1] == updates.items[0]
    await bucket.delete("m")
    assert (await updates.wait(3))[2].value is None
    await watch.close()
    await bus.close()


async def test_silent_server_with_data_underway_is_left(
    server: ServerUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rondo.bus.nats_link.PING_INTERVAL_S", 0.1)
    other = ServerUnderTest(tmp_path / "other")
    await other.start()
    bus = NatsBus(f"{server.url},{other.url}", name="test", buffer_bytes=2 << 20)
    await bus.connect()
    large = Event(kind="x", source_id="s", seq=0, fields={"text": "x" * (1 << 20)})
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        # More than sockets take: the client waits for a peer that does not read.
        with contextlib.suppress(BusUnavailable):
            for _ in range(40):
                await bus.publish(STATUS, large)
        await eventually(lambda: bus.stats.reconnects == 1, "it has changed to the other server")
        await bus.flush()
    finally:
        os.kill(server.pid, signal.SIGCONT)
        await bus.close()
        await other.stop()
