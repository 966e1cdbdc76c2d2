"""One stream for all browsers: each step is encoded once, however many read it.

A reader says which step it had last. It gets the steps after that, or, where these are forgotten
or it never had one, the whole state. So a slow reader costs no memory: when it comes back for more
and the ring has moved on, it gets the present instead of a queue. The name of a stream is in every
id, so one that has begun anew, or is another gateway's, is never continued by mistake.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import AsyncGenerator

import msgspec

from rondo.bus.tasks import end_task
from rondo_gateway.console.collector import Collector
from rondo_gateway.console.view import Step

#: Between two steps.
TICK_S = 0.1
#: Without any change something is sent after this long, so that both ends know of each other.
SILENCE_S = 5.0
#: Steps kept for readers that are behind: as many, and as many bytes.
MAX_STEPS = 100
MAX_STEP_BYTES = 4 * 2**20


class Hub:
    """The steps of one collector, as frames of server-sent events."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._name = uuid.uuid4().hex[:12]
        self._encode = msgspec.json.Encoder().encode
        self._ring: deque[bytes] = deque()
        self._ring_bytes = 0
        self._seq = 0  # of the newest frame in the ring
        self._whole: tuple[int, bytes] = (-1, b"")
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        """Begins to make steps."""
        self._task = asyncio.create_task(self._tick())

    async def stop(self) -> None:
        """Ends all streams."""
        self._closed = True
        self._wake()
        await end_task(self._task)

    async def frames(self, last_id: str) -> AsyncGenerator[bytes]:
        """What follows on the frame with that id; ends when the hub stops."""
        position = self._position(last_id)
        while not self._closed:
            first = self._seq - len(self._ring) + 1
            if position is None or position < first - 1:
                self._make_step()  # what is in the whole state must not come again
                position = self._seq
                yield self._whole_frame()
            elif position < self._seq:
                position += 1
                yield self._ring[position - first]
            else:
                moved = self._moved
                try:
                    async with asyncio.timeout(SILENCE_S):
                        await moved.wait()
                except TimeoutError:
                    yield b": still here\n\n"

    def _position(self, last_id: str) -> int | None:
        name, _, number = last_id.partition("-")
        with contextlib.suppress(ValueError):
            if name == self._name and 0 <= int(number) <= self._seq:
                return int(number)
        return None

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._make_step()

    def _make_step(self) -> None:
        step = self._collector.picture.step(self._collector.now())
        if step is None:
            return
        self._seq += 1
        frame = self._frame(step)
        self._ring.append(frame)
        self._ring_bytes += len(frame)
        while len(self._ring) > MAX_STEPS or self._ring_bytes > MAX_STEP_BYTES:
            self._ring_bytes -= len(self._ring.popleft())
        self._wake()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _whole_frame(self) -> bytes:
        """Encoded once a step, for all who need it."""
        seq, frame = self._whole
        if seq != self._seq:
            frame = self._frame(self._collector.picture.whole(self._collector.now()))
            self._whole = self._seq, frame
        return frame

    def _frame(self, step: Step) -> bytes:
        return b"id: %s-%d\ndata: %s\n\n" % (
            self._name.encode(),
            self._seq,
            self._encode(step),
        )
