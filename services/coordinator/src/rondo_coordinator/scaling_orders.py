"""Orders to whoever starts and stops instances: the last one counts, and it is written for sure."""

from __future__ import annotations

import asyncio
import logging

from rondo.bus import subjects
from rondo.bus.protocol import Bus
from rondo.bus.tasks import end_task
from rondo.errors import PeerError
from rondo.service import logs
from rondo.wire.messages import ScalingRecord

log = logging.getLogger("rondo.coordinator")

RETRY_S = 1.0


class ScalingOrders:
    """Writes ScalingRecords into their bucket, by model."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._unsent: dict[str, ScalingRecord] = {}
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._work())

    async def wanted(self, model: str) -> int | None:
        """What the last order for a model wanted.

        Raises:
            PeerError: the bus failed.
        """
        bucket = await self._bus.key_value(subjects.SCALING_BUCKET)
        found = await bucket.get(subjects.macro_id_of(model))
        record = found.value if found else None
        return record.num_wanted if isinstance(record, ScalingRecord) else None

    def send(self, record: ScalingRecord) -> None:
        """Takes an order; it replaces the one before."""
        self._unsent[record.model] = record
        self._news.set()

    async def close(self) -> None:
        """Stops writing."""
        await end_task(self._task)

    async def _work(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            for model, record in list(self._unsent.items()):
                try:
                    bucket = await self._bus.key_value(subjects.SCALING_BUCKET)
                    await bucket.put(subjects.macro_id_of(model), record)
                except PeerError as error:
                    logs.warning(log, "order_not_written", model=model, error=str(error))
                    await asyncio.sleep(RETRY_S)
                    self._news.set()
                    continue
                if self._unsent.get(model) is record:
                    del self._unsent[model]
