"""The macro-instances that this coordinator competes for, and those it owns."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine

from rondo.bus import subjects
from rondo.bus.protocol import Bus, KeyValue, Subscription
from rondo.bus.tasks import end_task
from rondo.errors import PeerError
from rondo.journal_writer import JournalFolder
from rondo.policy.events import MacroScheduler
from rondo.service import logs
from rondo.service.outbox import Outbox
from rondo.service.watched import Watched
from rondo.types import MacroLoad
from rondo.wire import messages as m
from rondo_coordinator.host import MacroHost
from rondo_coordinator.lease import Lease
from rondo_coordinator.membership import Membership
from rondo_coordinator.metrics import CoordinatorMetrics
from rondo_coordinator.stewards import Stewards

log = logging.getLogger("rondo.coordinator")

#: Who owns macro-instances already lets others take a new one first, so much for each.
POLITE_S = 0.05


class Ownership:
    """Takes leases, runs a host for each, and moves instances where they belong.

    Args:
        make_policy: a fresh policy object for a macro-instance.
        journals: where decisions are recorded; must name the policy that `make_policy` makes.
        watched: whether somebody wants to know why requests wait.
    """

    def __init__(
        self,
        bus: Bus,
        outbox: Outbox,
        coordinator_id: str,
        members: Membership,
        stewards: Stewards,
        make_policy: Callable[[], MacroScheduler],
        metrics: CoordinatorMetrics,
        lease_s: float,
        journals: JournalFolder | None,
        watched: Watched,
    ) -> None:
        self._bus = bus
        self._outbox = outbox
        self._id = coordinator_id
        self._members = members
        self._stewards = stewards
        self._make_policy = make_policy
        self._metrics = metrics
        self._lease_s = lease_s
        self._journals = journals
        self._watched = watched
        self._models: dict[str, str] = {}  # macro-instance: its model
        self._leases: dict[str, Lease] = {}
        self._competing: dict[str, asyncio.Task[None]] = {}
        self._submits: dict[str, Subscription] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.hosts: dict[str, MacroHost] = {}

    async def start(self) -> None:
        """Opens the buckets; `settle` begins the rest."""
        self._instances = await self._bus.key_value(subjects.INSTANCES_BUCKET)
        self._macros = await self._bus.key_value(subjects.MACROS_BUCKET)

    async def stop(self) -> None:
        """Stops acting, then releases all leases, so that others take over at once."""
        for host in self.hosts.values():  # all of them, before the first lease is given back
            host.close()
        for lease in self._leases.values():
            lease.stop()
        for macro_id in list(self.hosts):
            await self._lost(macro_id)
        await asyncio.gather(*self._competing.values(), return_exceptions=True)
        await end_task(*self._tasks)

    def model_of(self, macro_id: str) -> str:
        """The model that a macro-instance serves."""
        return self._models[macro_id]

    # Who belongs where

    def settle(self, model: str) -> None:
        """Competes for what there should be, and takes over and hands over what has moved."""
        wanted = self._members.macro_ids(model)
        for macro_id in wanted:
            self._compete(macro_id, model)
        for macro_id, host in list(self.hosts.items()):
            if self._models[macro_id] == model:
                self._settle_host(host, model)
                if macro_id not in wanted and not host.members:
                    self._give_up(macro_id, delete=True)
        for macro_id in list(self._leases):
            if self._models[macro_id] == model and macro_id not in (*wanted, *self.hosts):
                self._give_up(macro_id, delete=False)

    def _settle_host(self, host: MacroHost, model: str) -> None:
        for instance_id in list(host.members):
            place = self._members.place(instance_id)
            record = self._members.instances.get(instance_id)
            if place is None:
                gone = record is None or record.model != model
                host.remove(instance_id, "deregistered" if gone else "draining")
            elif place != host.macro_id and self._members.owned(place):
                host.hand_over(instance_id, place)
        for member in self._members.members(host.macro_id, model):
            host.add(member)

    # Ownership

    def _compete(self, macro_id: str, model: str) -> None:
        if macro_id in self._leases:
            return
        self._models[macro_id] = model
        lease = Lease(
            self._macros,
            macro_id,
            self._id,
            self._lease_s,
            lambda: self._describe(macro_id),
            lambda epoch: self._spawn(self._acquired(macro_id, epoch)),
            lambda: self._replaced(macro_id),
        )
        self._leases[macro_id] = lease
        self._competing[macro_id] = self._start(self._run(lease))

    def _replaced(self, macro_id: str) -> None:
        self._metrics.leases_lost.inc()
        self._spawn(self._lost(macro_id))

    async def _run(self, lease: Lease) -> None:
        await asyncio.sleep(POLITE_S * len(self.hosts))
        await lease.run()

    def _give_up(self, macro_id: str, *, delete: bool) -> None:
        """There is to be no such macro-instance any more."""
        lease, competing = self._leases.pop(macro_id), self._competing.pop(macro_id)

        async def end() -> None:
            lease.stop()
            await self._lost(macro_id)
            await asyncio.gather(competing, return_exceptions=True)
            if macro_id not in self._leases:  # nor is it there again
                self._models.pop(macro_id, None)
                if delete:
                    await self._delete(self._macros, macro_id)

        self._spawn(end())

    def _describe(self, macro_id: str) -> m.MacroRecord:
        host, model = self.hosts.get(macro_id), self._models[macro_id]
        members = host.members.values() if host else ()
        records = [member.record for member in members if member.joined]
        first = macro_id == subjects.macro_id_of(model)
        return m.MacroRecord(
            macro_id=macro_id,
            model=model,
            owner_id="",
            epoch=0,
            beat=0,
            max_model_len=max((record.max_model_len for record in records), default=0),
            instance_ids=tuple(record.instance_id for record in records),
            load=host.load() if host else MacroLoad(),
            groups=self._stewards.groups(model) if first else (),
        )

    async def _acquired(self, macro_id: str, epoch: int) -> None:
        self._metrics.leases_taken.inc()
        host = MacroHost(
            macro_id,
            epoch,
            self._make_policy(),
            self._outbox,
            self._metrics,
            lambda instance_id: self._spawn(self._delete(self._instances, instance_id)),
            self._leases[macro_id].touch,
            self._watched,
            self._journals.start(macro_id, epoch) if self._journals else None,
        )
        self.hosts[macro_id] = host
        model = self._models[macro_id]
        if macro_id == subjects.macro_id_of(model):
            await self._begin_steward(model, host)
        self.settle(model)
        submits = await self._bus.subscribe(subjects.submit(macro_id), host.on_submit)
        if self.hosts.get(macro_id) is host:
            self._submits[macro_id] = submits
        else:  # the lease was lost meanwhile
            await submits.close()

    async def _begin_steward(self, model: str, host: MacroHost) -> None:
        wanted: int | None = None
        with contextlib.suppress(PeerError):  # then it is counted anew
            wanted = await self._stewards.wanted(model)
        lease = self._leases.get(host.macro_id)
        if lease and self.hosts.get(host.macro_id) is host:
            self._stewards.begin(model, host.epoch, wanted, host.publish, lease.touch)

    async def _lost(self, macro_id: str) -> None:
        if host := self.hosts.pop(macro_id, None):
            host.close()
        if (model := self._models.get(macro_id)) and macro_id == subjects.macro_id_of(model):
            self._stewards.end(model)
        if submits := self._submits.pop(macro_id, None):
            await submits.close()

    async def _delete(self, bucket: KeyValue, key: str) -> None:
        """A dropped instance leaves the bucket, so that gateways end what they had on it."""
        try:
            await bucket.delete(key)
        except PeerError as error:
            logs.warning(log, "drop_failed", key=key, error=str(error))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        self._start(work)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            if error := task.exception():
                log.error("task_died", exc_info=error)
