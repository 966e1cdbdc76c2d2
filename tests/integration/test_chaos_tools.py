"""The chaos suite's relay and its noise, against a real server: they do what they are taken for."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rondo.bus.nats import NatsBus
from rondo.bus.protocol import Incoming
from rondo.wire import messages as m
from rondo_bench.chaos.noise import Noise
from rondo_bench.chaos.programs import programs_of
from rondo_bench.chaos.raw_bus import Letter, RawBus
from rondo_bench.chaos.relay import Relay
from tests.support.collect import Collector, eventually
from tests.support.nats import ServerUnderTest

SUBJECT = "rondo.v1.inst.w0.run"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerUnderTest]:
    server = ServerUnderTest(tmp_path)
    await server.start()
    yield server
    await server.stop()


def address(server: ServerUnderTest) -> tuple[str, int]:
    host, _, port = server.url.rpartition("//")[2].rpartition(":")
    return host, int(port)


async def test_a_blocked_program_hears_and_says_nothing_until_it_is_free(
    server: ServerUnderTest,
) -> None:
    relay = Relay(*address(server))
    await relay.start()
    parted, other = NatsBus(relay.url, name="parted"), NatsBus(relay.url, name="other")
    heard: Collector[Incoming] = Collector()
    for bus in (parted, other):
        await bus.connect()
    await other.subscribe(SUBJECT, heard)
    await eventually(lambda: relay.names() == ["other", "parted"], "both have said their names")
    relay.block("parted")
    await parted.publish(SUBJECT, m.Cancel(request_id="late"))
    await other.publish(SUBJECT, m.Cancel(request_id="soon"))
    await heard.wait(1)
    await asyncio.sleep(0.05)
    assert [item.message for item in heard.items] == [m.Cancel(request_id="soon")]
    relay.free("parted")
    assert (await heard.wait(2))[1].message == m.Cancel(request_id="late")
    reconnects = parted.stats.reconnects
    relay.cut("parted")
    await eventually(lambda: parted.stats.reconnects > reconnects, "it has connected again")
    for bus in (parted, other):
        await bus.close()
    await relay.stop()


async def test_a_blocked_program_cannot_come_back_on_a_new_connection(
    server: ServerUnderTest,
) -> None:
    relay = Relay(*address(server))
    await relay.start()
    relay.block("parted")
    bus = NatsBus(relay.url, name="parted")
    connecting = asyncio.create_task(bus.connect())
    await eventually(lambda: relay.names() == ["parted"], "it tries")
    await asyncio.sleep(0.05)
    assert not connecting.done()
    relay.free_all()
    await asyncio.wait_for(connecting, 10)
    await bus.close()
    await relay.stop()


async def test_raw_letters_arrive_as_they_are(server: ServerUnderTest) -> None:
    ears, mouth = await RawBus.connect(*address(server)), await RawBus.connect(*address(server))
    await ears.subscribe("rondo.v1.>")
    letters = [
        Letter(SUBJECT, "", b""),
        Letter(SUBJECT, "_INBOX.a.b", b"\x00\xff\r\nPING\r\n"),
        Letter(SUBJECT, "", bytes(300_000)),
    ]
    for letter in letters:
        await mouth.publish(letter)
    assert [await asyncio.wait_for(ears.next(), 5) for _ in letters] == letters
    await server.kill()
    with pytest.raises(OSError, match="gone"):
        await asyncio.wait_for(ears.next(), 5)
    ears.close()
    mouth.close()


async def test_noise_is_either_undecodable_or_a_repetition(server: ServerUnderTest) -> None:
    noise = Noise(*address(server), seed=1)
    listening = asyncio.create_task(noise.listen())
    bus = NatsBus(server.url, name="listener")
    await bus.connect()
    heard: Collector[Incoming] = Collector()
    await bus.subscribe(SUBJECT, heard)
    told = [m.Resync(request_id=f"r{i}", gateway_id="g0", from_index=i) for i in range(8)]
    await eventually(lambda: noise.listening, "it listens")
    for message in told:
        await bus.publish(SUBJECT, message)
    await heard.wait(len(told))
    await bus.flush()
    while min(noise.sent[kind] for kind in ("changed", "garbage", "late", "oversized")) < 3:
        assert await noise.burst() > 0
    repeated = noise.sent["late"] + noise.sent["duplicate"]
    items = await heard.wait(len(told) + repeated)
    assert all(item.message in told for item in items)
    damaged = noise.sent.total() - repeated - noise.sent["garbled reply"]
    await eventually(lambda: bus.stats.undecodable == damaged, "the rest is dropped and counted")
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await bus.close()


async def test_programs_that_do_not_listen_yet_are_spared(tmp_path: Path) -> None:
    state_file = tmp_path / "worker-0.port"
    command = [sys.executable, "-c", "import time; time.sleep(60)", "-m", "rondo_worker"]
    env = {**os.environ, "RONDO_STATE_FILE": str(state_file)}
    process = await asyncio.create_subprocess_exec(*command, env=env)
    parents = (os.getpid(),)
    try:
        await eventually(lambda: b"rondo_worker" in _command(process.pid), "it has begun")
        assert programs_of(parents, "worker") == []
        state_file.write_text('{"port": 1}')
        assert programs_of(parents, "worker") == [process.pid]
        assert programs_of(parents, "gateway") == []
    finally:
        process.kill()
        await process.wait()
    assert programs_of(parents, "worker") == []


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
