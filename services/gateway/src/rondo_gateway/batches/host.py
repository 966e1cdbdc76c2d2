"""Which of the gateways works on which batch: a lease in the batch's record.

Two that take themselves for the owner do no harm (see `result_log`), only work twice.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from rondo.bus.delivery import backoff_s
from rondo.bus.protocol import Bus, KeyUpdate, KeyValue, Subscription
from rondo.bus.subjects import BATCHES_BUCKET
from rondo.bus.tasks import end_task
from rondo.errors import BusUnavailable, RevisionConflict, RondoError
from rondo.service import logs
from rondo.wire.messages import BatchRecord
from rondo_gateway.batches.record import LEASE_S, OPEN, HeldRecord, OwnerLost
from rondo_gateway.batches.runner import BatchRunner

log = logging.getLogger("rondo.gateway")

LOOK_S = 0.5
#: How long a stopping gateway tries to give its batches back.
RELEASE_S = 3.0
#: Batches that one gateway works on at a time; others wait, or go to another gateway.
MAX_RUNNING = 4


@dataclass(slots=True)
class _Seen:
    update: KeyUpdate
    at_s: float


class BatchHost:
    """Takes up batches that nobody works on.

    Args:
        runner: makes what works on a batch.
    """

    def __init__(
        self, bus: Bus, gateway_id: str, runner: Callable[[HeldRecord], BatchRunner]
    ) -> None:
        self._bus = bus
        self._id = gateway_id
        self._runner = runner
        self._seen: dict[str, _Seen] = {}
        self._work: dict[str, asyncio.Task[None]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._watch: Subscription | None = None
        self._bucket: KeyValue | None = None

    async def bucket(self) -> KeyValue:
        """The records of all batches.

        Raises:
            BusUnavailable: the bus does not answer.
        """
        if self._bucket is None:
            self._bucket = await self._bus.key_value(BATCHES_BUCKET)
        return self._bucket

    def start(self) -> None:
        """Begins to look after batches, as soon as the bus lets it."""
        self._looking = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """Gives all batches back; others go on with them at once."""
        if self._looking is not None:
            await end_task(self._looking)
        tasks = list(self._work.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=RELEASE_S)
        await end_task(*tasks)
        if self._watch is not None:
            await self._watch.close()

    def _on_update(self, update: KeyUpdate) -> None:
        if isinstance(update.value, BatchRecord) and update.value.status in OPEN:
            self._seen[update.key] = _Seen(update, time.monotonic())
        else:
            self._seen.pop(update.key, None)

    async def _look(self) -> None:
        for failures in itertools.count(1):
            try:
                self._watch = await (await self.bucket()).watch(self._on_update)
                break
            except BusUnavailable as error:
                logs.warning(log, "batches_not_watched", error=str(error))
                await asyncio.sleep(backoff_s(failures))
        while True:
            for key, seen in list(self._seen.items()):
                if len(self._work) < MAX_RUNNING and key not in self._work and self._free(seen):
                    self._work[key] = asyncio.create_task(self._take(key, seen))
            await asyncio.sleep(LOOK_S)

    def _free(self, seen: _Seen) -> bool:
        record = seen.update.value
        assert isinstance(record, BatchRecord)
        return not record.owner_id or time.monotonic() - seen.at_s > LEASE_S

    async def _take(self, key: str, seen: _Seen) -> None:
        """Claims a batch and works on it, as long as it is ours."""
        held: HeldRecord | None = None
        try:
            held = await self._claim(seen.update)
            await self._runner(held).run()
        except (OwnerLost, RevisionConflict):
            pass
        except BusUnavailable as error:
            logs.warning(log, "batch_held_up", batch=key, error=str(error))
        except asyncio.CancelledError:
            if held is not None:
                await self._release(held)
            raise
        except Exception:
            # The lease runs out, and somebody tries again.
            log.exception("batch_failed batch=%s", key)
        finally:
            del self._work[key]

    async def _claim(self, update: KeyUpdate) -> HeldRecord:
        record = update.value
        assert isinstance(record, BatchRecord)
        record = msgspec.structs.replace(record, owner_id=self._id, beat=record.beat + 1)
        revision = await (await self.bucket()).update(update.key, record, update.revision)
        logs.info(log, "batch_taken", batch=update.key, status=record.status)
        return HeldRecord(await self.bucket(), record, revision)

    async def _release(self, held: HeldRecord) -> None:
        try:
            await held.change(lambda record: msgspec.structs.replace(record, owner_id=""))
        except RondoError as error:
            logs.info(log, "batch_not_released", batch=held.record.batch_id, error=str(error))
