"""The log of a batch under two owners, crashes and lost acknowledgements: each line once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rondo.bus.memory import MemoryBroker, MemoryBus
from rondo.errors import BusUnavailable
from rondo_gateway.batches import result_log
from rondo_gateway.batches.lines import LineResult
from rondo_gateway.batches.result_log import ResultLog
from rondo_gateway.batches.store import FileStore

NUM_LINES = 40


class Shaky(FileStore):
    """A store whose writes fail now and then, before or after they took effect."""

    def __init__(self, bus: MemoryBus, chance: random.Random) -> None:
        super().__init__(bus, 10**9)
        self._chance = chance

    async def create_chunk(self, name: str, index: int, data: bytes) -> None:
        lot = self._chance.random()
        await asyncio.sleep(0)
        if lot < 0.2:
            raise BusUnavailable("test", "nothing was written")
        await super().create_chunk(name, index, data)
        if lot > 0.8:
            raise BusUnavailable("test", "the acknowledgement was lost")

    async def get_chunk(self, name: str, index: int) -> bytes | None:
        if self._chance.random() < 0.1:
            raise BusUnavailable("test", "no answer")
        return await super().get_chunk(name, index)


async def owner(store: FileStore, chance: random.Random) -> None:
    """Works as a gateway does, in its own order, and dies now and then."""
    while True:
        log = ResultLog(store, "batch")
        try:
            await log.replay()
        except BusUnavailable:
            continue
        writer = asyncio.create_task(log.write())
        todo = [n for n in range(NUM_LINES) if n not in log.done]
        chance.shuffle(todo)
        alive = chance.randrange(NUM_LINES)
        for number in todo[:alive]:
            log.add(LineResult(number, chance.random() < 0.9, 1, 2, b"%d" % chance.getrandbits(30)))
            if chance.random() < 0.5:
                await asyncio.sleep(0)
        if len(todo) <= alive:
            await log.settled()
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        if len(todo) <= alive:
            assert log.done == set(range(NUM_LINES))
            return


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
async def test_each_line_once(seed: int) -> None:
    chance = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(result_log, "backoff_s", lambda _: 0.0)
        patch.setattr(result_log, "CHUNK_BYTES", 30)
        server = MemoryBroker()
        buses = [MemoryBus(server) for _ in range(2)]
        for bus in buses:
            await bus.connect()
        async with asyncio.timeout(20):
            await asyncio.gather(*(owner(Shaky(bus, chance), chance) for bus in buses))
        reader = ResultLog(FileStore(buses[0], 10**9), "batch")
        await reader.replay()
        written = [one.number async for part in reader.chunks() for one in part]
        assert Counter(written) == dict.fromkeys(range(NUM_LINES), 1)
        assert reader.output_tokens == 2 * NUM_LINES
        await reader.drop()
        assert [part async for part in reader.chunks()] == []
        for bus in buses:
            await bus.close()
