"""How a program starts and stops: uvloop, signals, settings errors with exit code 2."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import uvloop

from rondo import tracing
from rondo.errors import ConfigError
from rondo.service import logs
from rondo.service.settings import BaseSettings, describe, from_env

T = TypeVar("T", bound=BaseSettings)


def run_program(
    name: str, cls: type[T], serve: Callable[[T, asyncio.Event], Awaitable[None]]
) -> int:
    """Runs a service until SIGINT or SIGTERM; the exit code.

    `serve` gets the settings and an event that is set when it must stop.
    """
    if set(sys.argv[1:]) & {"-h", "--help"}:
        print(f"{name}: settings come from the environment\n\n{describe(cls)}")
        return 0
    try:
        settings = from_env(cls, os.environ)
        logs.setup(settings.log_level)
        try:
            uvloop.run(_until_signal(settings, serve))
        finally:
            tracing.stop()
    except ConfigError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return 0


async def _until_signal(settings: T, serve: Callable[[T, asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop)


async def unless_stopped(stop: asyncio.Event, work: Awaitable[None]) -> bool:
    """Runs `work`, giving up when `stop` is set first; whether it finished."""
    task = asyncio.ensure_future(work)
    waiter = asyncio.create_task(stop.wait())
    await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if task.done():
        task.result()
        return True
    task.cancel()
    await asyncio.gather(task, waiter, return_exceptions=True)
    return False
