"""Ownership of a macro-instance: a record with an epoch that only grows, renewed by its owner.

Hosts share no clock, so nobody compares times: a stand-by takes over when it has seen no renewal
for `lease_s` on its own clock, and the owner stops acting when it could not renew for that long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import msgspec

from rondo.bus.protocol import KeyUpdate, KeyValue, Subscription
from rondo.errors import BusUnavailable, RevisionConflict
from rondo.service import logs
from rondo.wire.messages import MacroRecord

log = logging.getLogger("rondo.coordinator")

#: An owner renews, and a stand-by looks, this many times per lease.
BEATS_PER_LEASE = 3


class Lease:
    """Competes for one macro-instance, for ever.

    Args:
        describe: the record to publish; owner, epoch and beat are filled in here.
        on_acquire: called with the new epoch. on_lose: called when ownership ended.
    """

    def __init__(
        self,
        bucket: KeyValue,
        macro_id: str,
        owner_id: str,
        lease_s: float,
        describe: Callable[[], MacroRecord],
        on_acquire: Callable[[int], None],
        on_lose: Callable[[], None],
    ) -> None:
        self._bucket = bucket
        self._macro_id = macro_id
        self._owner_id = owner_id
        self._lease_s = lease_s
        self._describe = describe
        self._on_acquire = on_acquire
        self._on_lose = on_lose
        self._changed = asyncio.Event()
        self._seen: KeyUpdate | None = None
        self._seen_s = time.monotonic()
        self._beat = 0
        self._revision = 0
        self._expiry: asyncio.TimerHandle | None = None
        self._stopped = False
        self.epoch = 0
        self.owned = False

    async def run(self) -> None:
        """Competes until stopped; releases the lease then."""
        watch = await self._bucket.watch(self._on_update)
        try:
            while not self._stopped:
                await (self._renew() if self.owned else self._compete())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._lease_s / BEATS_PER_LEASE):
                        await self._changed.wait()
                self._changed.clear()
        finally:
            await self._release(watch)

    def stop(self) -> None:
        """Ends `run` after the write it may be waiting for.

        A cancellation would leave open whether that write was made, and so the revision that the
        release has to name; and before Python 3.12 `wait_for` may lose it.
        """
        self._stopped = True
        self._changed.set()

    def touch(self) -> None:
        """The record has changed: publish it now."""
        self._changed.set()

    def _on_update(self, update: KeyUpdate) -> None:
        if update.key != self._macro_id:
            return
        self._seen, self._seen_s = update, time.monotonic()
        record = update.value
        deposed = isinstance(record, MacroRecord) and record.epoch > self.epoch
        if self.owned and deposed:
            self._lose("another coordinator took over")
        if not self.owned and isinstance(record, MacroRecord) and not record.owner_id:
            self._changed.set()

    async def _compete(self) -> None:
        record = self._seen.value if self._seen else None
        held = isinstance(record, MacroRecord) and bool(record.owner_id)
        if held and time.monotonic() - self._seen_s < self._lease_s:
            return
        # Our own last epoch counts too: the bucket may have lost its store.
        epoch = max(self.epoch, record.epoch if isinstance(record, MacroRecord) else 0) + 1
        try:
            await self._write(epoch)
        except (RevisionConflict, BusUnavailable) as error:
            logs.info(log, "lease_not_taken", macro=self._macro_id, error=str(error))
            return
        self.epoch, self.owned = epoch, True
        logs.info(log, "lease_taken", macro=self._macro_id, epoch=epoch)
        if not self._stopped:
            self._on_acquire(epoch)

    async def _renew(self) -> None:
        try:
            await self._write(self.epoch)
        except RevisionConflict:
            self._lose("another coordinator took over")
        except BusUnavailable as error:  # tried again until the lease expires
            logs.info(log, "lease_not_renewed", macro=self._macro_id, error=str(error))

    async def _write(self, epoch: int) -> None:
        """Compare-and-set against the revision we know."""
        started_s = time.monotonic()
        if not self.owned:
            self._revision = self._seen.revision if self._seen and self._seen.value else 0
        record = self._record(epoch, self._owner_id)
        if self._revision:
            work = self._bucket.update(self._macro_id, record, self._revision)
        else:
            work = self._bucket.create(self._macro_id, record)
        try:
            async with asyncio.timeout(self._lease_s / 2):
                self._revision = await work
        except TimeoutError as error:
            raise BusUnavailable("lease", f"no answer in {self._lease_s / 2:g} s") from error
        self._expire_at(started_s + self._lease_s)

    def _expire_at(self, at_s: float) -> None:
        """Ownership ends then, whatever else is waited for: others count from a later time."""
        if self._expiry:
            self._expiry.cancel()
        delay_s = max(0.0, at_s - time.monotonic())
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_later(delay_s, self._lose, "not renewed in time")

    def _record(self, epoch: int, owner_id: str) -> MacroRecord:
        self._beat += 1
        return msgspec.structs.replace(
            self._describe(), owner_id=owner_id, epoch=epoch, beat=self._beat
        )

    def _lose(self, why: str) -> None:
        if not self.owned:
            return
        self.owned = False
        self._seen_s = time.monotonic()
        logs.warning(log, "lease_lost", macro=self._macro_id, epoch=self.epoch, why=why)
        self._on_lose()

    async def _release(self, watch: Subscription) -> None:
        """Lets a stand-by take over at once."""
        await watch.close()
        if self._expiry:
            self._expiry.cancel()
        if not self.owned:
            return
        self.owned = False
        record = self._record(self.epoch, "")
        try:
            await self._bucket.update(self._macro_id, record, self._revision)
        except (RevisionConflict, BusUnavailable) as error:
            logs.info(log, "lease_not_released", macro=self._macro_id, error=str(error))
