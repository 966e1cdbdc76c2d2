"""A bounded queue with a task that works it off in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from rondo.bus.tasks import end_task

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Delivers items to a handler on the event loop's own time, as a socket would.

    Args:
        limit: how many items may wait; 0 is no limit.
    """

    def __init__(self, handler: Callable[[T], None], limit: int = 0) -> None:
        self._handler = handler
        self._queue: asyncio.Queue[T] = asyncio.Queue(limit)
        self._task = asyncio.create_task(self._work())

    def offer(self, item: T) -> bool:
        """Queues an item; False when there is no room."""
        try:
            self._queue.put_nowait(item)
        except asyncio.QueueFull:
            return False
        return True

    async def drained(self) -> None:
        """Returns when all items so far are delivered."""
        await self._queue.join()

    async def close(self) -> None:
        """Stops delivery; safe to call twice."""
        await end_task(self._task)

    async def _work(self) -> None:
        while True:
            item = await self._queue.get()
            self._handler(item)
            self._queue.task_done()
