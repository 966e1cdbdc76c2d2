"""Faults on demand, for demonstrations: the console kills, pauses or drains this instance.

Listened to only where RONDO_DEMO is on; elsewhere nobody is there to obey.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable

from rondo.bus import subjects
from rondo.bus.protocol import Bus, Incoming
from rondo.service import logs
from rondo.wire.messages import FaultKind, FaultTaken, InjectFault

log = logging.getLogger("rondo.worker")

#: Longest pause; the coordinator takes an instance for lost long before.
MAX_PAUSE_S = 30.0


class Faults:
    """Obeys InjectFault.

    Args:
        drain: makes the program leave in order, as SIGTERM does.
    """

    def __init__(self, bus: Bus, instance_id: str, drain: Callable[[], None]) -> None:
        self._bus = bus
        self._instance_id = instance_id
        self._drain = drain
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begins to listen."""
        await self._bus.subscribe(subjects.fault(self._instance_id), self._on_fault)

    def _on_fault(self, incoming: Incoming) -> None:
        if isinstance(incoming.message, InjectFault):
            task = asyncio.create_task(self._obey(incoming, incoming.message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _obey(self, incoming: Incoming, order: InjectFault) -> None:
        logs.warning(log, "fault_on_demand", instance=self._instance_id, fault=order.fault.value)
        if incoming.respond:
            await incoming.respond(FaultTaken(instance_id=self._instance_id, fault=order.fault))
            await self._bus.flush()
        match order.fault:
            case FaultKind.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            case FaultKind.PAUSE:  # a program that hangs: the loop itself must stand still
                time.sleep(min(order.duration_s, MAX_PAUSE_S))  # noqa: ASYNC251
            case FaultKind.DRAIN:
                self._drain()
