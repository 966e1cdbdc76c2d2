"""How many lines of a batch run side by side, with instances that have so much room."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from math import inf

import pytest
from fastapi import FastAPI

from rondo.bus import subjects
from rondo.bus.memory import MemoryBroker, MemoryBus
from rondo.bus.memory_kv import MemoryKeyValue
from rondo.errors import BusUnavailable
from rondo.wire.messages import BatchRecord, FileRecord
from rondo_gateway.batches import runner
from rondo_gateway.batches.caller import Answer, LineCaller
from rondo_gateway.batches.record import HeldRecord
from rondo_gateway.batches.runner import BatchRunner
from rondo_gateway.batches.store import FileStore
from rondo_gateway.batches.window import Window
from tests.support.collect import eventually

CHAT = "/v1/chat/completions"
MOST = 100
AHEAD = Window.AHEAD


@pytest.fixture(autouse=True)
def busy_round_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """No round of the loop is taken for a busy one, however busy the machine is."""
    monkeypatch.setattr(runner, "BUSY_ROUND_S", inf)


class Instances(LineCaller):
    """Takes lines while it has room, and answers them when it is told to."""

    def __init__(self, room: int) -> None:
        super().__init__(FastAPI(), "")
        self.room = room
        self.num_asked = self.most_asked = 0
        self.refusals = 0
        self.answering = asyncio.Event()
        self._change = asyncio.Condition()

    async def call(self, url: str, body: bytes, on_placed: Callable[[], None]) -> Answer:
        self.num_asked += 1
        self.most_asked = max(self.most_asked, self.num_asked)
        try:
            if self.refusals:
                self.refusals -= 1
                return Answer(503, "r", b"{}", 0.001)
            async with self._change:
                await self._change.wait_for(lambda: self.room > 0)
                self.room -= 1
            on_placed()
            await self.answering.wait()
            return Answer(200, "r", b"{}", None)
        finally:
            self.num_asked -= 1

    async def make_room(self, more: int) -> None:
        async with self._change:
            self.room += more
            self._change.notify_all()


async def settle() -> None:
    """Lets everything go as far as it can."""
    for _ in range(1000):
        await asyncio.sleep(0)


@asynccontextmanager
async def working(caller: LineCaller, num_lines: int, number: int = 0) -> AsyncIterator[HeldRecord]:
    """A batch that is worked on."""
    bus = MemoryBus(MemoryBroker())
    await bus.connect()
    store = FileStore(bus, 10**9)

    async def content() -> AsyncIterator[bytes]:
        line = {"method": "POST", "url": CHAT, "body": {}}
        lines = [json.dumps({"custom_id": str(index), **line}) for index in range(num_lines)]
        yield "\n".join(lines).encode()

    source = FileRecord(
        file_id="file-in", filename="in", purpose="batch", created_at=0, num_bytes=0, num_chunks=0
    )
    await store.save(source, content())
    record = BatchRecord(
        batch_id=f"batch_{number}",
        endpoint=CHAT,
        input_file_id="file-in",
        output_file_id="file-out",
        error_file_id="file-err",
        status="validating",
        created_at=0,
        window_s=3600,
        owner_id="g0",
    )
    bucket = await bus.key_value(subjects.BATCHES_BUCKET)
    held = HeldRecord(bucket, record, await bucket.create(record.batch_id, record))
    task = asyncio.create_task(BatchRunner(held, store, caller, MOST).run())
    try:
        await settle()
        yield held
        async with asyncio.timeout(10):
            await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bus.close()


@pytest.mark.parametrize(
    ("room", "running"),
    [(0, AHEAD), (30, 30 + AHEAD), (MOST - AHEAD, MOST), (1000, MOST)],
)
async def test_lines_fill_the_room_at_once_and_few_wait_for_more(room: int, running: int) -> None:
    caller = Instances(room)
    async with working(caller, 300) as held:
        assert caller.num_asked == running
        await caller.make_room(300)
        caller.answering.set()
    assert (held.record.status, held.record.num_completed) == ("completed", 300)
    assert caller.most_asked <= MOST


async def test_room_that_comes_later_is_filled() -> None:
    caller = Instances(10)
    async with working(caller, 300):
        assert caller.num_asked == 10 + AHEAD
        await caller.make_room(25)
        await settle()
        assert caller.num_asked == 35 + AHEAD
        await caller.make_room(300)
        caller.answering.set()


async def test_several_batches_wait_each_with_few_lines() -> None:
    caller = Instances(20)
    async with working(caller, 80, 0), working(caller, 80, 1), working(caller, 80, 2):
        assert caller.num_asked == 20 + 3 * AHEAD
        await caller.make_room(300)
        caller.answering.set()


async def test_a_line_that_is_refused_waits_again() -> None:
    caller = Instances(1000)
    caller.refusals = 500
    async with working(caller, 60) as held:
        assert caller.most_asked <= AHEAD, "those that were refused take the places of others"
        caller.answering.set()
    assert (held.record.status, held.record.num_completed) == ("completed", 60)


@pytest.mark.parametrize("lease_s", [60.0, 0.0])
async def test_lines_go_on_while_the_bus_is_away_as_long_as_the_batch_is_ours(
    monkeypatch: pytest.MonkeyPatch, lease_s: float
) -> None:
    monkeypatch.setattr("rondo_gateway.batches.runner.BEAT_S", 0.001)
    monkeypatch.setattr("rondo_gateway.batches.record.LEASE_S", lease_s)
    tries = list[str]()

    async def away(self: MemoryKeyValue, key: str, value: object, revision: int) -> int:
        tries.append(key)
        raise BusUnavailable("test", "away")

    caller = Instances(1000)
    over = pytest.raises(BusUnavailable) if lease_s == 0.0 else nullcontext()
    with over:
        async with working(caller, 60):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(MemoryKeyValue, "update", away)
                await eventually(lambda: len(tries) >= (3 if lease_s else 1), "it is away")
            await settle()
            assert caller.num_asked == (60 if lease_s else 0)
            caller.answering.set()


async def test_lines_begin_slowly_on_a_busy_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "BUSY_ROUND_S", 0.003)

    async def busy() -> None:
        time.sleep(0.01)  # noqa: ASYNC251

    task = asyncio.create_task(busy())
    began_s = time.monotonic()
    await runner._let_others_run()
    assert time.monotonic() - began_s > 0.01 * (1 + runner.ROUNDS_OFF) - 0.001
    await task


async def test_what_a_line_did_not_expect_ends_the_work_on_its_batch() -> None:
    class Broken(Instances):
        async def call(self, url: str, body: bytes, on_placed: Callable[[], None]) -> Answer:
            if self.num_asked == 3:
                raise ZeroDivisionError
            return await super().call(url, body, on_placed)

    with pytest.raises(ZeroDivisionError):
        async with working(Broken(0), 20):
            pass
