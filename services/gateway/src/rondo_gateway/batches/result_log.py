"""The results of a batch as they come, each exactly once, whoever writes them.

A log is chunks with numbers. A chunk is written only where there is none, by somebody who has read
all before it; so of two gateways that take themselves for the batch's owner, one writes a number
and the other learns what the first has done. Nothing is lost or there twice, whatever leases do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import count

import msgspec

from rondo.bus.delivery import backoff_s
from rondo.errors import BusUnavailable, RevisionConflict
from rondo_gateway.batches.lines import LineResult
from rondo_gateway.batches.store import CHUNK_BYTES, FileStore

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[LineResult])


class ResultLog:
    """The log of one batch; `done` are the numbers of the lines that are in it."""

    def __init__(self, store: FileStore, batch_id: str) -> None:
        self._store = store
        self._name = batch_id
        self._next = 0
        self._waiting: dict[int, LineResult] = {}
        self._more = asyncio.Event()
        self._written = asyncio.Event()
        self.done: set[int] = set()
        self.num_failed = self.input_tokens = self.output_tokens = 0

    async def replay(self) -> None:
        """Reads what others have written."""
        while (data := await self._store.get_chunk(self._name, self._next)) is not None:
            self._take(_decoder.decode(data))

    def add(self, result: LineResult) -> None:
        """Has a result written soon; the first of a line holds."""
        self._waiting.setdefault(result.number, result)
        self._more.set()

    async def write(self) -> None:
        """Writes what is added, until cancelled: all that came during one write goes with the next.

        While the bus is away it waits: a batch has a day.
        """
        failures = 0
        while True:
            # Another's chunk may have had them, or ours whose acknowledgement was lost.
            for number in self._waiting.keys() & self.done:
                del self._waiting[number]
            if not self._waiting:
                self._more.clear()
                self._written.set()
                await self._more.wait()
                continue
            try:
                await self._write(self._cut())
                failures = 0
            except BusUnavailable:
                failures += 1
                await asyncio.sleep(backoff_s(failures))

    async def settled(self) -> None:
        """Returns when all that was added is written; `write` must be running."""
        while self._more.is_set():
            self._written.clear()
            await self._written.wait()

    async def chunks(self) -> AsyncIterator[list[LineResult]]:
        """All that is written, in order."""
        for index in count():
            data = await self._store.get_chunk(self._name, index)
            if data is None:
                return
            yield _decoder.decode(data)

    async def drop(self) -> None:
        """Forgets the log, the last chunk first: what is left is a log still."""
        for index in reversed(range(self._next)):
            await self._store.drop_chunk(self._name, index)

    def _cut(self) -> list[LineResult]:
        """As many of those that wait as make a chunk, at least one."""
        size = 0
        part = list(self._waiting.values())
        for index, result in enumerate(part):
            size += len(result.line)
            if index and size > CHUNK_BYTES:
                return part[:index]
        return part

    async def _write(self, part: list[LineResult]) -> None:
        try:
            await self._store.create_chunk(self._name, self._next, _encoder.encode(part))
        except RevisionConflict:
            await self.replay()
        else:
            self._take(part)

    def _take(self, results: Sequence[LineResult]) -> None:
        self._next += 1
        for result in results:
            self.done.add(result.number)
            self.num_failed += not result.ok
            self.input_tokens += result.input_tokens
            self.output_tokens += result.output_tokens
