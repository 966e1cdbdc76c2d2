"""What every bus must do when its server is lost, or the connection is not open.

The in-memory bus and NATS pass the same tests.
"""

from __future__ import annotations

import asyncio

import pytest

from rondo.bus.protocol import Bus, Incoming
from rondo.errors import BusUnavailable
from rondo.wire.messages import StatusRequest
from tests.support.buses import SUBJECT, BusHarness, frame, pair, seqs
from tests.support.collect import Collector, eventually


async def test_everything_works_again_after_the_server_was_lost(harness: BusHarness) -> None:
    sender, receiver = await pair(harness)
    got: Collector[Incoming] = Collector()
    back = asyncio.Event()
    callbacks: list[float] = []
    receiver.on_reconnect(lambda: callbacks.append(1 / 0))
    receiver.on_reconnect(back.set)
    await receiver.subscribe(SUBJECT, got)
    for round_number in range(2):
        assert sender.connected
        assert receiver.connected
        await harness.interrupt()
        await eventually(lambda: not sender.connected, "the loss is noticed")
        await eventually(lambda: not receiver.connected, "the loss is noticed")
        back.clear()
        # Meanwhile: what needs an answer fails at once, what does not is buffered.
        with pytest.raises(BusUnavailable):
            await sender.request("rondo.v1.status", StatusRequest(), 5.0)
        with pytest.raises(BusUnavailable):
            await sender.flush()
        await harness.restore()
        await asyncio.wait_for(back.wait(), 10)
        await eventually(lambda: sender.connected, "it is connected again")
        await sender.publish(SUBJECT, frame(round_number))
        assert seqs(await got.wait(round_number + 1))[-1] == round_number
    assert receiver.stats.reconnects == 2
    assert receiver.stats.handler_errors == 2


async def publish_until_refused(bus: Bus) -> int:
    for seq in range(1000):
        try:
            await bus.publish(SUBJECT, frame(seq))
        except BusUnavailable:
            return seq
    return 1000


async def test_messages_sent_while_disconnected_are_buffered_in_bounds(
    harness: BusHarness,
) -> None:
    bus = await harness.bus("alone", buffer_bytes=2000)
    got: Collector[Incoming] = Collector()
    await bus.subscribe(SUBJECT, got)
    await harness.interrupt()
    await eventually(lambda: not bus.connected, "the loss is noticed")
    buffered = await publish_until_refused(bus)
    assert 5 < buffered < 1000
    await harness.restore()
    assert seqs(await got.wait(buffered)) == list(range(buffered))


async def test_subscribing_while_disconnected(harness: BusHarness) -> None:
    bus = await harness.bus("alone")
    await harness.interrupt()
    await eventually(lambda: not bus.connected, "the loss is noticed")
    got: Collector[Incoming] = Collector()
    await bus.subscribe(SUBJECT, got)
    await harness.restore()
    await eventually(lambda: bus.connected, "it is connected again")
    await bus.publish(SUBJECT, frame(7))
    assert seqs(await got.wait(1)) == [7]


async def test_before_connect_and_after_close_all_fail_typed(harness: BusHarness) -> None:
    bus = harness.new_bus("late")
    got: Collector[Incoming] = Collector()

    async def check() -> None:
        assert not bus.connected
        with pytest.raises(BusUnavailable):
            await bus.publish(SUBJECT, frame(0))
        with pytest.raises(BusUnavailable):
            await bus.subscribe(SUBJECT, got)
        with pytest.raises(BusUnavailable):
            await bus.request(SUBJECT, frame(0), 1.0)
        with pytest.raises(BusUnavailable):
            await bus.request_many(SUBJECT, frame(0), 1.0)
        with pytest.raises(BusUnavailable):
            await bus.flush()
        with pytest.raises(BusUnavailable):
            await bus.key_value("rondo_macros")

    await check()
    await bus.connect()
    assert bus.connected
    await bus.close()
    await bus.close()
    await check()
    with pytest.raises(BusUnavailable):
        await bus.connect()


async def test_close_sends_what_was_published(harness: BusHarness) -> None:
    sender, receiver = await pair(harness)
    got: Collector[Incoming] = Collector()
    await receiver.subscribe(SUBJECT, got)
    for seq in range(300):
        await sender.publish(SUBJECT, frame(seq))
    await sender.close()
    assert seqs(await got.wait(300)) == list(range(300))


async def test_close_while_the_server_is_lost(harness: BusHarness) -> None:
    bus = await harness.bus("alone")
    got: Collector[Incoming] = Collector()
    await bus.subscribe(SUBJECT, got)
    await harness.interrupt()
    await eventually(lambda: not bus.connected, "the loss is noticed")
    await bus.publish(SUBJECT, frame(0))  # it is buffered, and nobody will ever take it
    async with asyncio.timeout(5):
        await bus.close()
