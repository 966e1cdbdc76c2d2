"""A connection that is read at leisure: everything comes, in order, many at a time."""

from __future__ import annotations

import asyncio
import time

from rondo.bus.nats import NatsBus
from rondo.bus.protocol import Incoming
from tests.support.buses import SUBJECT, frame, seqs
from tests.support.collect import Collector, eventually
from tests.support.nats import ServerUnderTest

EVERY_S = 0.2


async def connected(server: ServerUnderTest, read_every_s: float = 0.0) -> NatsBus:
    bus = NatsBus(server.url, name="test", read_every_s=read_every_s)
    await bus.connect()
    return bus


async def test_messages_wait_for_each_other(server: ServerUnderTest) -> None:
    sender, reader = await connected(server), await connected(server, EVERY_S)
    came: Collector[Incoming] = Collector()
    at_s: list[float] = []

    def note(incoming: Incoming) -> None:
        at_s.append(time.monotonic())
        came(incoming)

    await reader.subscribe(SUBJECT, note)
    began_s = time.monotonic()
    for seq in range(100):
        await sender.publish(SUBJECT, frame(seq))
        await asyncio.sleep(0.01)
    await came.until(lambda items: len(items) == 100)
    assert seqs(came.items) == list(range(100))
    pauses = [b - a for a, b in zip(at_s, at_s[1:], strict=False) if b - a > EVERY_S / 2]
    reads = (time.monotonic() - began_s) / EVERY_S
    assert 1 <= len(pauses) <= reads + 1, "few wake-ups, whatever the number of messages"
    assert sum(pauses) > 0.5 * (at_s[-1] - at_s[0]), "between them it rests"
    await reader.close()
    await sender.close()


async def test_it_does_not_fall_behind(server: ServerUnderTest) -> None:
    sender, reader = await connected(server), await connected(server, EVERY_S)
    came: Collector[Incoming] = Collector()
    await reader.subscribe(SUBJECT, came)
    began_s = time.monotonic()
    for seq in range(20_000):
        await sender.publish(SUBJECT, frame(seq))
    await sender.flush()
    await came.until(lambda items: len(items) == 20_000)
    num_bytes = 20_000 * 100
    resting_s = num_bytes / 32_768 * EVERY_S
    assert time.monotonic() - began_s < resting_s / 2, "it rests only when all is read"
    assert seqs(came.items) == list(range(20_000))
    await reader.close()
    await sender.close()


async def test_it_notices_a_server_that_is_gone_and_ends_while_it_rests(
    server: ServerUnderTest,
) -> None:
    reader = await connected(server, EVERY_S)
    came: Collector[Incoming] = Collector()
    await reader.subscribe(SUBJECT, came)
    await server.kill()
    await eventually(lambda: not reader.connected, "the loss is noticed")
    await server.start()
    await eventually(lambda: reader.connected, "it is back")
    sender = await connected(server)
    await sender.publish(SUBJECT, frame(1))
    await came.until(lambda items: len(items) == 1)
    began_s = time.monotonic()
    await reader.close()
    assert time.monotonic() - began_s < 2.0
    await sender.close()
