"""Ending tasks for certain."""

from __future__ import annotations

import asyncio

#: A task that has not ended after this time is cancelled once more.
PATIENCE_S = 0.1


async def end_task(task: asyncio.Task[None] | None) -> None:
    """Cancels a task until it has ended; its result does not matter.

    Once is not enough: asyncio.wait_for (before Python 3.12) and nats-py lose a cancellation that
    meets the result they wait for.
    """
    if task is None:
        return
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=PATIENCE_S)
    if not task.cancelled():
        task.exception()  # seen: asyncio shall not complain about it
