"""Follows the ScalingRecord of a model: there are as many instances as its coordinator wants.

The record says how many there should be, not what to do: whatever was missed, repeated or done in
part, following the latest one is right.
"""

from __future__ import annotations

import asyncio
import logging

from rondo.bus import subjects
from rondo.bus.protocol import Bus, KeyUpdate, Subscription
from rondo.bus.tasks import end_task
from rondo.errors import RondoError
from rondo.scaling.driver import Driver
from rondo.service import logs
from rondo.wire.messages import ScalingRecord

log = logging.getLogger("rondo.scaling")

#: Pause before what failed is tried again.
RETRY_S = 2.0


class ScalingAgent:
    """Carries out the orders for one model, one step at a time.

    Args:
        most: never runs more than this, whatever is ordered.
    """

    def __init__(self, bus: Bus, model: str, driver: Driver, most: int) -> None:
        self._bus = bus
        self._key = subjects.macro_id_of(model)
        self._driver = driver
        self._most = most
        self._order: ScalingRecord | None = None
        self._news = asyncio.Event()
        self._watch: Subscription | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to follow."""
        bucket = await self._bus.key_value(subjects.SCALING_BUCKET)
        self._watch = await bucket.watch(self._changed)
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Changes nothing any more."""
        if self._watch:
            await self._watch.close()
        await end_task(self._task)

    def _changed(self, update: KeyUpdate) -> None:
        order = update.value
        if update.key != self._key or not isinstance(order, ScalingRecord):
            return
        if self._order and order.epoch < self._order.epoch:  # of an owner that was deposed
            return
        self._order = order
        self._news.set()

    async def _work(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            assert self._order is not None
            try:
                await self._follow(self._order)
            except RondoError as error:
                logs.warning(log, "scaling_failed", error=str(error))
                await asyncio.sleep(RETRY_S)
                self._news.set()

    async def _follow(self, order: ScalingRecord) -> None:
        for instance_id in order.stop:
            if instance_id in self._driver.instance_ids:
                logs.info(log, "instance_stopped", instance=instance_id, reason=order.reason)
                await self._driver.stop(instance_id)
        wanted = min(order.num_wanted + order.num_draining, self._most)
        while len(self._driver.instance_ids) < wanted:
            instance_id = await self._driver.start()
            logs.info(log, "instance_started", instance=instance_id, reason=order.reason)
