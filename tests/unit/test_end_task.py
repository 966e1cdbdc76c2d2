"""A task ends even where it loses a cancellation."""

from __future__ import annotations

import asyncio

from rondo.bus.tasks import end_task


async def test_task_that_loses_cancellations_ends() -> None:
    lost = 0

    async def stubborn() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
                if lost == 3:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await end_task(task)
    assert task.cancelled()
    assert lost == 3


async def test_ended_tasks_and_none() -> None:
    async def fail() -> None:
        raise ValueError("nobody looks")

    task = asyncio.create_task(fail())
    await asyncio.wait({task})
    await end_task(task)
    await end_task(None)
