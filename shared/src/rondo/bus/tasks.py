"""Ending tasks for certain."""

from __future__ import annotations

import asyncio

#: A task that has not ended after this time is cancelled once more.
PATIENCE_S = 0.1


async def end_task(*tasks: asyncio.Task[None] | None) -> None:
    """Cancels tasks until they have ended; their results do not matter.

    Once is not enough: asyncio.wait_for (before Python 3.12) and nats-py lose a cancellation that
    meets the result they wait for.
    """
    given = [task for task in tasks if task is not None]
    while live := [task for task in given if not task.done()]:
        for task in live:
            task.cancel()
        await asyncio.wait(live, timeout=PATIENCE_S)
    for task in given:
        if not task.cancelled():
            task.exception()  # seen: asyncio shall not complain about it
