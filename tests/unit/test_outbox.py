"""The outbox: what can wait goes out with what cannot."""

from __future__ import annotations

import asyncio

import pytest

from rondo.bus import subjects
from rondo.bus.memory import MemoryBroker, MemoryBus
from rondo.service import outbox
from rondo.service.outbox import Outbox
from rondo.wire.messages import Event, Message, StatusRequest


class NotingBus(MemoryBus):
    """Notes what is published."""

    def __init__(self) -> None:
        super().__init__(MemoryBroker(), name="noting")
        self.sent: list[Message] = []

    async def publish(self, subject: str, message: Message) -> None:
        self.sent.append(message)


def event(seq: int) -> Event:
    return Event(kind="turn_began", source_id="m", seq=seq, fields={})


def later(made: Outbox, *numbers: int) -> None:
    for seq in numbers:
        made.send_later(subjects.event("turn_began"), event(seq))


async def turns_of_the_loop() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_can_wait_follows_what_cannot_in_its_order() -> None:
    bus = NotingBus()
    made = Outbox(bus)
    later(made, 1, 2)
    await turns_of_the_loop()
    assert bus.sent == []
    made.send(subjects.STATUS, StatusRequest())
    await turns_of_the_loop()
    assert bus.sent == [StatusRequest(), event(1), event(2)]
    await made.close()
    assert len(bus.sent) == 3


async def test_what_can_wait_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "LATER_S", 0.0)
    bus = NotingBus()
    made = Outbox(bus)
    later(made, 1)
    await turns_of_the_loop()
    assert bus.sent == [event(1)]
    await made.close()


async def test_the_end_sends_what_waits() -> None:
    bus = NotingBus()
    made = Outbox(bus)
    later(made, 1)
    await made.close()
    assert bus.sent == [event(1)]
