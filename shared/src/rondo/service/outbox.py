"""Sends messages in order from synchronous code: handlers never await."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from rondo.bus.protocol import Bus
from rondo.bus.tasks import end_task
from rondo.errors import PeerError
from rondo.service import logs
from rondo.wire.messages import Message

log = logging.getLogger("rondo.outbox")

#: Sends that may wait for the bus; further ones are dropped, and sequence numbers tell.
LIMIT = 65536
#: What can wait goes out with what cannot, and no later than this: a write costs more than what
#: is written.
LATER_S = 0.05
#: How long close() waits for what is queued.
CLOSE_TIMEOUT_S = 2.0
#: Failed sends are logged once in this time; the line says how many there were.
LOG_INTERVAL_S = 10.0


class Outbox:
    """A queue of sends and the task that works it off. Failed sends are counted and logged."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._queue: asyncio.Queue[tuple[str, Callable[[], Awaitable[None]]]] = asyncio.Queue(LIMIT)
        self._later: list[tuple[str, Message]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._task = asyncio.create_task(self._work())
        self._num_logged = 0
        self._quiet_until_s = 0.0
        self.failed = 0

    def send(self, subject: str, message: Message) -> None:
        """Publishes a message after those before it."""
        self.call(subject, lambda: self._bus.publish(subject, message))
        if self._later:
            self.send_waiting()

    def send_later(self, subject: str, message: Message) -> None:
        """Publishes a message that nobody waits for: after the next one, or in a while.

        Such messages keep their order among themselves.
        """
        self._later.append((subject, message))
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(LATER_S, self.send_waiting)

    def send_waiting(self) -> None:
        """Publishes now what `send_later` took."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        later, self._later = self._later, []
        for subject, message in later:
            self.send(subject, message)

    def call(self, subject: str, send: Callable[[], Awaitable[None]]) -> None:
        """Runs any send in order; `subject` is for the log."""
        try:
            self._queue.put_nowait((subject, send))
        except asyncio.QueueFull:
            self._fail(subject, f"{LIMIT} sends wait for the bus")

    async def close(self) -> None:
        """Sends what is queued, in bounded time, then stops."""
        self.send_waiting()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._queue.join()
        await end_task(self._task)

    async def _work(self) -> None:
        while True:
            subject, send = await self._queue.get()
            try:
                await send()
            except PeerError as error:
                self._fail(subject, str(error))
            finally:
                self._queue.task_done()

    def _fail(self, subject: str, error: str) -> None:
        self.failed += 1
        now_s = time.monotonic()
        if now_s >= self._quiet_until_s:  # a bus that is away fails every send
            self._quiet_until_s = now_s + LOG_INTERVAL_S
            count, self._num_logged = self.failed - self._num_logged, self.failed
            logs.warning(log, "send_failed", subject=subject, error=error, count=count)
