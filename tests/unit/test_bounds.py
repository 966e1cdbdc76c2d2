"""What waits, and what is kept, has a limit; and what happens at the limit."""

from __future__ import annotations

import asyncio
import logging

import pytest

from rondo.bus import sequence
from rondo.bus.memory import MemoryBroker, MemoryBus
from rondo.bus.sequence import Duplicate, Gap, Sequencer, SequenceTracker
from rondo.errors import BusUnavailable
from rondo.policy.plan import NewToken
from rondo.service import outbox
from rondo.service.outbox import Outbox
from rondo.types import FinishReason
from rondo.wire.messages import Message, Resync, StatusRequest, TokenDelta, TokenFrame
from rondo_worker import streams
from rondo_worker.streams import TokenStreams


class Sent:
    """Takes what a worker sends."""

    def __init__(self) -> None:
        self.deltas: list[TokenDelta] = []

    def __call__(self, subject: str, message: Message) -> None:
        assert isinstance(message, TokenFrame)
        self.deltas += message.deltas


def answer(made: TokenStreams, request_id: str, num_tokens: int) -> None:
    """A whole answer, for a gateway that may be gone."""
    assert made.open(request_id, "g0")
    for index in range(num_tokens):
        finish = FinishReason.LENGTH if index == num_tokens - 1 else None
        made.step((NewToken(request_id, index, 20 + index, finish),), 1.0)


def asked_again(made: TokenStreams, sent: Sent, request_id: str) -> TokenDelta:
    made.resync(Resync(request_id=request_id, gateway_id="g0", from_index=0))
    return sent.deltas[-1]


async def test_answers_are_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "KEPT_ANSWERS", 3)
    sent = Sent()
    made = TokenStreams("w0", sent)
    for number in range(5):
        answer(made, f"r{number}", 2)
    assert asked_again(made, sent, "r1").finish is FinishReason.CANCELLED
    assert asked_again(made, sent, "r2") == TokenDelta(
        "r2", 0, (20, 21), FinishReason.LENGTH, first=sent.deltas[-1].first
    )


async def test_answers_are_kept_up_to_so_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "KEPT_TOKENS", 10)
    sent = Sent()
    made = TokenStreams("w0", sent)
    for number, length in enumerate((4, 4, 3, 20, 10)):
        answer(made, f"r{number}", length)
        kept = [f"r{n}" for n in range(number + 1) if asked_again(made, sent, f"r{n}").tokens]
        assert kept == [["r0"], ["r0", "r1"], ["r1", "r2"], [], ["r4"]][number]


async def test_one_request_too_many_is_sent_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_LIVE", 2)
    sent = Sent()
    made = TokenStreams("w0", sent)
    assert made.open("a", "g0")
    assert made.open("b", "g0")
    assert not made.open("c", "g0")
    assert sent.deltas == [TokenDelta("c", 0, (), FinishReason.CANCELLED)]
    assert made.drop("a")
    assert made.open("c", "g0")


def test_numbers_of_the_stream_used_longest_ago_begin_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sequence, "MAX_STREAMS", 2)
    numbers = Sequencer()
    assert [numbers.next(key) for key in "aabacab"] == [0, 1, 0, 2, 0, 3, 0]
    seen = SequenceTracker()
    for key, number in (("a", 1), ("b", 1), ("a", 2), ("c", 7)):
        assert seen.observe(key, "i", number) is None
    assert seen.observe("b", "i", 99) is None, "b was forgotten: it joins anew"
    assert seen.observe("c", "i", 9) == Gap(8, 9)
    assert isinstance(seen.observe("c", "i", 9), Duplicate)


async def test_sends_that_find_no_room_are_counted_and_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox, "LIMIT", 5)
    made = Outbox(MemoryBus(MemoryBroker(), name="never connected"))
    with caplog.at_level(logging.WARNING, "rondo.outbox"):
        for _ in range(8):
            made.send("rondo.v1.status", StatusRequest())
        assert made.failed == 3
        await made.close()
    assert made.failed == 8, "the others failed on the bus"
    assert len(caplog.records) == 1


async def test_the_outbox_waits_for_a_slow_bus_in_order() -> None:
    done: list[int] = []
    gate = asyncio.Event()
    made = Outbox(MemoryBus(MemoryBroker(), name="unused"))

    async def send(number: int) -> None:
        await gate.wait()
        if number == 1:
            raise BusUnavailable("memory", "gone")
        done.append(number)

    for number in range(3):
        made.call("x", lambda n=number: send(n))  # type: ignore[misc]
    await asyncio.sleep(0)
    gate.set()
    await made.close()
    assert done == [0, 2]
    assert made.failed == 1
