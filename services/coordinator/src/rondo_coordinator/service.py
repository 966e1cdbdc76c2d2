"""The coordinator on the bus: leases, membership, and the routing of messages to its hosts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine

from rondo.bus import subjects
from rondo.bus.protocol import Bus, Incoming, KeyUpdate, Subscription
from rondo.bus.tasks import end_task
from rondo.errors import PeerError
from rondo.journal_writer import JournalFolder
from rondo.policy.events import MacroScheduler
from rondo.service import logs
from rondo.service.outbox import Outbox
from rondo.wire import messages as m
from rondo_coordinator.host import MacroHost
from rondo_coordinator.lease import Lease
from rondo_coordinator.metrics import CoordinatorMetrics

log = logging.getLogger("rondo.coordinator")

SILENCE_CHECK_S = 0.5
#: A record may come this much later than the first report of its instance.
STRANGER_S = 2.0
#: So long a stop waits for the disk to take what the journals hold.
JOURNAL_TIMEOUT_S = 3.0


class CoordinatorService:
    """Competes for every macro-instance it hears of and runs those it owns.

    Args:
        make_policy: a fresh policy object for a macro-instance.
        instance_timeout_s, lease_s: see CoordinatorSettings.
        journals: where decisions are recorded; must name the policy that `make_policy` makes.
    """

    def __init__(
        self,
        bus: Bus,
        coordinator_id: str,
        make_policy: Callable[[], MacroScheduler],
        metrics: CoordinatorMetrics,
        *,
        instance_timeout_s: float,
        lease_s: float,
        journals: JournalFolder | None = None,
    ) -> None:
        self._bus = bus
        self._id = coordinator_id
        self._make_policy = make_policy
        self._metrics = metrics
        self._instance_timeout_s = instance_timeout_s
        self._lease_s = lease_s
        self._journals = journals
        self._outbox = Outbox(bus)
        self._records: dict[str, m.InstanceRecord] = {}
        self._models: dict[str, str] = {}
        self._leases: dict[str, Lease] = {}
        self._hosts: dict[str, MacroHost] = {}
        self._submits: dict[str, Subscription] = {}
        self._strangers: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._competing: list[asyncio.Task[None]] = []
        self.started = False
        metrics.watch_pending(lambda: sum(host.num_pending for host in self._hosts.values()))
        metrics.watch_latencies(
            lambda: [item for host in self._hosts.values() for item in host.latencies.items()]
        )

    async def start(self) -> None:
        """Subscribes and begins to compete."""
        await self._bus.subscribe(subjects.all_reports(), self._on_report)
        await self._bus.subscribe(subjects.STATUS, self._on_status)
        self._instances = await self._bus.key_value(subjects.INSTANCES_BUCKET)
        self._macros = await self._bus.key_value(subjects.MACROS_BUCKET)
        await self._macros.watch(self._on_macro)
        await self._instances.watch(self._on_instance)
        self._spawn(self._watch_silence())
        self.started = True

    async def stop(self) -> None:
        """Stops acting, then releases all leases, so that others take over at once."""
        for lease in self._leases.values():
            lease.stop()
        for macro_id in list(self._hosts):
            await self._lost(macro_id)
        await asyncio.gather(*self._competing, return_exceptions=True)
        await end_task(*self._tasks)
        await self._outbox.close()
        if self._journals and not await asyncio.to_thread(self._journals.close, JOURNAL_TIMEOUT_S):
            logs.warning(log, "journal_cut", waited_s=JOURNAL_TIMEOUT_S)

    # What comes in

    def _on_macro(self, update: KeyUpdate) -> None:
        if isinstance(update.value, m.MacroRecord):
            self._compete(update.value.model)

    def _on_instance(self, update: KeyUpdate) -> None:
        instance_id = update.key
        previous = self._records.pop(instance_id, None)
        record = update.value
        if isinstance(record, m.InstanceRecord):
            self._records[instance_id] = record
            self._compete(record.model)
            if host := self._hosts.get(subjects.macro_id_of(record.model)):
                host.add(record)
            if previous and previous.model == record.model:
                return
        if previous and (host := self._hosts.get(subjects.macro_id_of(previous.model))):
            host.remove(instance_id, "deregistered")

    def _on_report(self, incoming: Incoming) -> None:
        report = incoming.message
        if not isinstance(report, m.StepReport | m.TurnBegan | m.TurnEnded):
            return
        for host in self._hosts.values():
            host.on_report(report)
        if self._hosts and report.instance_id not in self._records:
            self._on_stranger(report)
        else:
            self._strangers.pop(report.instance_id, None)

    def _on_stranger(self, report: m.Report) -> None:
        """It reports but has no record: an owner before us dropped it, and nobody told it."""
        now_s = time.monotonic()
        since_s = self._strangers.setdefault(report.instance_id, now_s)
        if now_s - since_s > STRANGER_S:
            self._strangers[report.instance_id] = now_s
            subject = subjects.command(report.instance_id)
            self._outbox.send(subject, m.Rejoin(epoch=report.epoch))

    def _on_status(self, incoming: Incoming) -> None:
        if not isinstance(incoming.message, m.StatusRequest) or incoming.respond is None:
            return
        respond = incoming.respond
        for macro_id, host in self._hosts.items():
            reply = host.status(self._models[macro_id], self._id)
            self._outbox.call("status", lambda reply=reply: respond(reply))  # type: ignore[misc]

    # Ownership

    def _compete(self, model: str) -> None:
        macro_id = subjects.macro_id_of(model)
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
            lambda: self._spawn(self._lost(macro_id)),
        )
        self._leases[macro_id] = lease
        self._competing.append(self._start(lease.run()))

    def _describe(self, macro_id: str) -> m.MacroRecord:
        host = self._hosts.get(macro_id)
        members = host.members.values() if host else ()
        records = [member.record for member in members if member.joined]
        return m.MacroRecord(
            macro_id=macro_id,
            model=self._models[macro_id],
            owner_id="",
            epoch=0,
            beat=0,
            max_model_len=max((record.max_model_len for record in records), default=0),
            instance_ids=tuple(record.instance_id for record in records),
        )

    async def _acquired(self, macro_id: str, epoch: int) -> None:
        host = MacroHost(
            macro_id,
            epoch,
            self._make_policy(),
            self._outbox,
            self._metrics,
            lambda instance_id: self._spawn(self._delete_record(instance_id)),
            self._leases[macro_id].touch,
            self._journals.start(macro_id, epoch) if self._journals else None,
        )
        self._hosts[macro_id] = host
        for record in self._records.values():
            if subjects.macro_id_of(record.model) == macro_id:
                host.add(record)
        submits = await self._bus.subscribe(subjects.submit(macro_id), host.on_submit)
        if self._hosts.get(macro_id) is host:
            self._submits[macro_id] = submits
        else:  # the lease was lost meanwhile
            await submits.close()

    async def _lost(self, macro_id: str) -> None:
        if host := self._hosts.pop(macro_id, None):
            host.close()
        if submits := self._submits.pop(macro_id, None):
            await submits.close()

    async def _delete_record(self, instance_id: str) -> None:
        """A dropped instance leaves the bucket, so that gateways end what they had on it."""
        try:
            await self._instances.delete(instance_id)
        except PeerError as error:
            logs.warning(log, "drop_failed", instance=instance_id, error=str(error))

    async def _watch_silence(self) -> None:
        while True:
            await asyncio.sleep(SILENCE_CHECK_S)
            if self._bus.connected:  # else the silence is ours
                for host in self._hosts.values():
                    host.drop_silent(self._instance_timeout_s)

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
