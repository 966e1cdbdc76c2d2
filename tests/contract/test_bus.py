"""What every bus must do: messages. The in-memory bus and NATS pass the same tests."""

from __future__ import annotations

import asyncio
import logging

import pytest

from rondo.bus.protocol import Incoming
from rondo.bus.sequence import Gap, SequenceTracker
from rondo.errors import (
    DecodeError,
    MessageTooLarge,
    NoResponder,
    RequestTimeout,
)
from rondo.types import Sampling, Slo
from rondo.wire.codec import encode
from rondo.wire.messages import Cancel, Message, Run, StatusRequest
from tests.support.buses import SUBJECT, BusHarness, frame, pair, seqs
from tests.support.collect import Collector, eventually


async def test_messages_arrive_in_order_and_whole(harness: BusHarness) -> None:
    sender, receiver = await pair(harness)
    got: Collector[Incoming] = Collector()
    await receiver.subscribe(SUBJECT, got)
    sent = [frame(seq) for seq in range(500)]
    for message in sent:
        await sender.publish(SUBJECT, message)
    items = await got.wait(500)
    assert [item.message for item in items] == sent
    assert items[0].subject == SUBJECT
    assert items[0].respond is None
    assert (sender.stats.published, receiver.stats.received) == (500, 500)


async def test_wildcard_matches_exactly_one_token(harness: BusHarness) -> None:
    sender, receiver = await pair(harness)
    got: Collector[Incoming] = Collector()
    await receiver.subscribe("rondo.v1.inst.*.report", got)
    for subject in ("rondo.v1.inst.report", "rondo.v1.inst.a.b.report", "rondo.v1.inst.a.cmd"):
        await sender.publish(subject, frame(0))
    for name in ("a", "b"):
        await sender.publish(f"rondo.v1.inst.{name}.report", frame(1))
    items = await got.wait(2)
    assert [item.subject.split(".")[3] for item in items] == ["a", "b"]


async def test_closed_subscription_gets_nothing(harness: BusHarness) -> None:
    sender, receiver = await pair(harness)
    closed: Collector[Incoming] = Collector()
    got: Collector[Incoming] = Collector()
    subscription = await receiver.subscribe(SUBJECT, closed)
    await receiver.subscribe(SUBJECT, got)
    await subscription.close()
    await subscription.close()
    await sender.publish(SUBJECT, frame(0))
    await got.wait(1)
    assert closed.items == []


async def test_request_gets_the_late_answer(harness: BusHarness) -> None:
    client, server = await pair(harness)
    got: Collector[Incoming] = Collector()
    await server.subscribe("rondo.v1.status", got)
    asked = asyncio.create_task(client.request("rondo.v1.status", StatusRequest(), 5.0))
    request = (await got.wait(1))[0]
    await server.flush()
    assert not asked.done()
    assert request.respond is not None
    for name in ("first", "second"):
        await request.respond(Cancel(request_id=name))
    assert await asked == Cancel(request_id="first")


async def test_requests_at_the_same_time_get_their_own_answers(harness: BusHarness) -> None:
    client, server = await pair(harness)
    got: Collector[Incoming] = Collector()
    await server.subscribe("rondo.v1.status", got)

    async def ask(name: str) -> Message:
        return await client.request("rondo.v1.status", Cancel(request_id=name), 5.0)

    asked = [asyncio.create_task(ask(str(index))) for index in range(50)]
    for request in reversed(await got.wait(50)):
        assert request.respond is not None
        await request.respond(request.message)
    assert await asyncio.gather(*asked) == [Cancel(request_id=str(i)) for i in range(50)]


async def test_request_without_an_answer(harness: BusHarness) -> None:
    client, server = await pair(harness)
    got: Collector[Incoming] = Collector()
    with pytest.raises(NoResponder) as nobody:
        await client.request("rondo.v1.status", StatusRequest(), 5.0)
    assert nobody.value.subject == "rondo.v1.status"
    await server.subscribe("rondo.v1.status", got)
    with pytest.raises(RequestTimeout) as late:
        await client.request("rondo.v1.status", StatusRequest(), 0.05)
    assert (late.value.subject, late.value.timeout_s) == ("rondo.v1.status", 0.05)
    respond = got.items[0].respond
    assert respond is not None
    await respond(StatusRequest())  # an answer nobody waits for any more does no harm
    await server.flush()


async def test_request_many_collects_all_answers(harness: BusHarness) -> None:
    client = await harness.bus("client")
    assert await client.request_many("rondo.v1.status", StatusRequest(), 5.0) == []
    tasks = []
    for name in ("a", "b", "c"):

        def answer(request: Incoming, name: str = name) -> None:
            assert request.respond is not None
            reply = Cancel(request_id=name)
            tasks.append(asyncio.ensure_future(request.respond(reply)))

        await (await harness.bus(name)).subscribe("rondo.v1.status", answer)
    answers = await client.request_many("rondo.v1.status", StatusRequest(), 0.3)
    await asyncio.gather(*tasks)
    assert sorted(a.request_id for a in answers if isinstance(a, Cancel)) == ["a", "b", "c"]


async def test_too_large_message_is_refused_before_it_is_sent(harness: BusHarness) -> None:
    sender, receiver = await pair(harness)
    got: Collector[Incoming] = Collector()
    await receiver.subscribe(SUBJECT, got)
    slo = Slo(ttft_s=1.0, tpot_s=1.0)
    large = Run(
        request_id="r-1",
        gateway_id="g-1",
        prompt=bytes(9 << 20),
        max_tokens=1,
        predicted_tokens=1,
        sampling=Sampling(),
        slo=slo,
        age_s=0.0,
    )
    with pytest.raises(MessageTooLarge) as refused:
        await sender.publish(SUBJECT, large)
    with pytest.raises(MessageTooLarge):
        await sender.request(SUBJECT, large, 1.0)
    assert refused.value.subject == SUBJECT
    assert refused.value.size_bytes > refused.value.limit_bytes == 8 << 20
    await sender.publish(SUBJECT, frame(0))
    assert seqs(await got.wait(1)) == [0]
    assert (sender.stats.too_large, sender.stats.published) == (2, 1)
    assert sender.connected


async def test_undecodable_messages_are_named_and_dropped(
    harness: BusHarness, caplog: pytest.LogCaptureFixture
) -> None:
    sender, receiver = await pair(harness)
    got: Collector[Incoming] = Collector()
    other: Collector[Incoming] = Collector()
    await receiver.subscribe(SUBJECT, got)
    await receiver.subscribe("rondo.v1.status", other)
    garbage = [b"", b"hello", encode(frame(0))[:-3], b"\x02" + encode(frame(0))[1:]]
    with caplog.at_level(logging.WARNING, "rondo.bus"):
        for data in garbage:
            await harness.inject(SUBJECT, data)
        await sender.publish(SUBJECT, frame(1))
        await sender.publish("rondo.v1.status", frame(2))
        assert seqs(await got.wait(1)) == [1]
        assert seqs(await other.wait(1)) == [2]
    assert receiver.stats.undecodable == len(garbage)
    assert receiver.stats.by_subject == {SUBJECT: len(garbage)}
    # A flood of them must not flood the log.
    assert len(caplog.messages) == 1
    assert SUBJECT in caplog.messages[0]


async def test_undecodable_answer(harness: BusHarness) -> None:
    client = await harness.bus("client")
    with pytest.raises(DecodeError):
        async with harness.garbling("rondo.v1.status"):
            await client.request("rondo.v1.status", StatusRequest(), 5.0)
    assert client.stats.undecodable == 1
    assert client.stats.by_subject == {"rondo.v1.status": 1}


async def test_failing_handler_does_not_stop_delivery(
    harness: BusHarness, caplog: pytest.LogCaptureFixture
) -> None:
    sender, receiver = await pair(harness)
    got: Collector[Incoming] = Collector()

    def handler(incoming: Incoming) -> None:
        got(incoming)
        if len(got.items) == 1:
            raise ValueError("a bug")

    with caplog.at_level(logging.WARNING, "rondo.bus"):
        await receiver.subscribe(SUBJECT, handler)
        await sender.publish(SUBJECT, frame(0))
        await sender.publish(SUBJECT, frame(1))
        assert seqs(await got.wait(2)) == [0, 1]
    assert receiver.stats.handler_errors == 1
    assert "a bug" in caplog.text
    assert SUBJECT in caplog.text


async def test_slow_consumer_loses_messages_and_can_tell(
    harness: BusHarness, caplog: pytest.LogCaptureFixture
) -> None:
    sender, receiver = await pair(harness)
    slow: Collector[Incoming] = Collector()
    healthy: Collector[Incoming] = Collector()
    await receiver.subscribe(SUBJECT, slow, pending_limit=4)
    await receiver.subscribe(SUBJECT, healthy)
    with caplog.at_level(logging.WARNING, "rondo.bus"):
        for seq in range(2000):
            await sender.publish(SUBJECT, frame(seq))
        assert seqs(await healthy.wait(2000)) == list(range(2000))
    stats = receiver.stats
    await eventually(lambda: len(slow.items) + stats.slow_consumer == 2000, "all are accounted for")
    lost = stats.slow_consumer
    assert lost > 0
    # One line for many lost messages (more only where the test itself takes very long).
    assert 0 < len(caplog.messages) <= 3
    assert SUBJECT in caplog.messages[0]
    await sender.publish(SUBJECT, frame(2000))
    await slow.until(lambda items: seqs(items)[-1] == 2000)
    tracker = SequenceTracker()
    seen = [tracker.observe("w-1", "a", seq) for seq in seqs(slow.items)]
    gaps = [item for item in seen if isinstance(item, Gap)]
    assert sum(gap.got - gap.expected for gap in gaps) == lost
