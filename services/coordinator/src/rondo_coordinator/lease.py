"""Ownership of a macro-instance: the rules of its lease, run on the bus and the clock.

`lease_rules` decides. Here its reads and writes are made, what the watch shows is passed on, and
its clock is kept: a stand-by wakes in the moment in which the owner's lease is over.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

import msgspec

from rondo.bus.protocol import KeyUpdate, KeyValue, Subscription
from rondo.bus.tasks import end_task
from rondo.errors import BusUnavailable, RevisionConflict
from rondo.service import logs
from rondo.wire.messages import MacroRecord
from rondo_coordinator import lease_events as events
from rondo_coordinator.lease_rules import LeaseRules

log = logging.getLogger("rondo.coordinator")

#: A read or write is given up after this part of the lease, so that another try fits in.
TRIES_PER_LEASE = 3
#: Claims are numbered from a random number of so many bits on.
FIRST_BEAT_BITS = 48


class Lease:
    """Competes for one macro-instance, for ever.

    Args:
        lease_s: an owner that is silent for so long is replaced.
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
        self._lease_s = lease_s
        self._timeout_s = lease_s / TRIES_PER_LEASE
        self._describe = describe
        self._on_acquire = on_acquire
        self._on_lose = on_lose
        self._rules = LeaseRules(owner_id, lease_s, random.getrandbits(FIRST_BEAT_BITS))
        self._call: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()

    @property
    def owned(self) -> bool:
        """Whether to act now; right even before a timer that is late says that it is over."""
        return self._rules.owned and time.monotonic() < self._rules.expires_s

    @property
    def epoch(self) -> int:
        """The last epoch that was acquired; 0: none."""
        return self._rules.epoch

    async def run(self) -> None:
        """Competes until stopped; releases the lease then."""
        watch = await self._watch()
        try:
            self._feed(events.Clock(time.monotonic()))
            await self._ended.wait()
        finally:
            self._ended.set()
            self._wake_at(None)
            await end_task(self._call)
            if watch:
                await watch.close()

    def stop(self) -> None:
        """Ends `run` after the write it may be waiting for.

        A cancellation would leave open whether that write was made, and so the revision that the
        release has to name; and before Python 3.12 `wait_for` may lose it.
        """
        self._feed(events.Stop(time.monotonic()))

    def touch(self) -> None:
        """The record has changed: publish it now, if it is ours."""
        if self._rules.owned:
            self._feed(events.Touch(time.monotonic()))

    async def _watch(self) -> Subscription | None:
        """A watch, tried for until the bus gives one; None when stopped first."""
        while not self._ended.is_set():
            try:
                return await self._bucket.watch(self._on_update)
            except BusUnavailable as error:
                logs.warning(log, "lease_not_watched", macro=self._macro_id, error=str(error))
                await asyncio.sleep(self._timeout_s)
        return None

    def _on_update(self, update: KeyUpdate) -> None:
        if update.key == self._macro_id:
            self._feed(events.Saw(time.monotonic(), _claim(update), update.revision))

    def _feed(self, event: events.Event) -> None:
        if self._ended.is_set():
            return
        decision = self._rules.handle(event)
        self._wake_at(decision.wake_at_s)
        for effect in decision.effects:
            self._perform(effect)

    def _wake_at(self, at_s: float | None) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if at_s is not None:
            delay_s = max(0.0, at_s - time.monotonic())
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(
                delay_s, lambda: self._feed(events.Clock(time.monotonic()))
            )

    def _perform(self, effect: events.Effect) -> None:
        match effect:
            case events.Write() | events.Read():
                self._call = asyncio.create_task(self._ask(effect))
            case events.Acquired(epoch=epoch):
                logs.info(log, "lease_taken", macro=self._macro_id, epoch=epoch)
                self._on_acquire(epoch)
            case events.Lost(why=why):
                logs.warning(log, "lease_lost", macro=self._macro_id, epoch=self.epoch, why=why)
                self._on_lose()
            case events.Ended():
                self._ended.set()

    async def _ask(self, question: events.Write | events.Read) -> None:
        """Puts a question to the store and feeds the answer to the rules."""
        now = time.monotonic
        event: events.Event
        try:
            async with asyncio.timeout(self._timeout_s):
                if isinstance(question, events.Read):
                    found = await self._bucket.get(self._macro_id)
                    revision = found.revision if found else 0
                    event = events.Found(now(), _claim(found), revision)
                else:
                    event = events.WriteOk(now(), await self._write(question))
        except RevisionConflict as error:
            logs.info(log, "lease_conflict", macro=self._macro_id, error=str(error))
            event = events.WriteConflict(now())
        except Exception as error:  # whatever it was, a lease must not stand still for it
            problem = str(error) or type(error).__name__
            logs.info(log, "lease_no_answer", macro=self._macro_id, error=problem)
            event = events.Failed(now())
        self._feed(event)

    async def _write(self, write: events.Write) -> int:
        claim = write.claim
        record = msgspec.structs.replace(
            self._describe(), owner_id=claim.owner_id, epoch=claim.epoch, beat=claim.beat
        )
        if write.revision:
            return await self._bucket.update(self._macro_id, record, write.revision)
        return await self._bucket.create(self._macro_id, record)


def _claim(update: KeyUpdate | None) -> events.Claim | None:
    record = update.value if update else None
    if not isinstance(record, MacroRecord):
        return None
    return events.Claim(record.owner_id, record.epoch, record.beat)
