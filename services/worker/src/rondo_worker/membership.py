"""The instance's record in the bucket of instances."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from rondo.bus import subjects
from rondo.bus.protocol import Bus
from rondo.errors import PeerError
from rondo.service import logs
from rondo.wire.messages import InstanceRecord

log = logging.getLogger("rondo.worker")

RETRY_S = 1.0


class Registration:
    """Keeps the record there while the instance lives."""

    def __init__(self, bus: Bus, record: InstanceRecord) -> None:
        self._bus = bus
        self.record = record
        self.registered = False
        self._removed = False

    async def put(self, incarnation: str) -> None:
        """Writes the record, trying until it works or it has been removed."""
        self.record = msgspec.structs.replace(self.record, incarnation=incarnation)
        while not self._removed:
            try:
                await self._write()
            except PeerError as error:
                logs.warning(log, "register_failed", error=str(error))
                await asyncio.sleep(RETRY_S)
            else:
                self.registered = True
                return

    async def drain(self) -> None:
        """Marks the instance as taking nothing new."""
        self.record = msgspec.structs.replace(self.record, draining=True)
        try:
            await self._write()
        except PeerError as error:
            logs.warning(log, "drain_not_announced", error=str(error))

    async def remove(self) -> None:
        """Takes the record away; when that fails, silence tells."""
        self._removed = True
        try:
            bucket = await self._bus.key_value(subjects.INSTANCES_BUCKET)
            await bucket.delete(self.record.instance_id)
        except PeerError as error:
            logs.warning(log, "deregister_failed", error=str(error))

    async def _write(self) -> None:
        bucket = await self._bus.key_value(subjects.INSTANCES_BUCKET)
        await bucket.put(self.record.instance_id, self.record)
