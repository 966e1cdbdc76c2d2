"""Waiting for what a handler gets, without sleeping for a fixed time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

TIMEOUT_S = 10.0


class Collector(Generic[T]):
    """A handler that keeps what it gets."""

    def __init__(self) -> None:
        self.items: list[T] = []
        self._changed = asyncio.Event()

    def __call__(self, item: T) -> None:
        """Takes an item."""
        self.items.append(item)
        self._changed.set()

    async def wait(self, count: int) -> list[T]:
        """The items, once there are so many."""
        return await self.until(lambda items: len(items) >= count)

    async def until(self, done: Callable[[list[T]], bool]) -> list[T]:
        """The items, once a condition holds for them."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while not done(self.items):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"waited in vain; got {self.items}") from None
        return self.items


async def eventually(
    condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S
) -> None:
    """Waits for a condition that nothing announces."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                if condition():
                    return
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited in vain until {what}") from None
