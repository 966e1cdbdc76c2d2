"""The coordinator on the bus: watches the buckets, and routes messages to its hosts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from rondo.bus import subjects
from rondo.bus.protocol import Bus, Incoming, KeyUpdate
from rondo.bus.tasks import end_task
from rondo.journal_writer import JournalFolder
from rondo.policy.events import MacroScheduler
from rondo.service import logs
from rondo.service.outbox import Outbox
from rondo.service.watched import Watched
from rondo.wire import messages as m
from rondo_coordinator.macro_metrics import MacroMetrics
from rondo_coordinator.membership import Membership
from rondo_coordinator.metrics import CoordinatorMetrics
from rondo_coordinator.ownership import Ownership
from rondo_coordinator.scaling_metrics import ScalingMetrics
from rondo_coordinator.settings import ScalingSettings
from rondo_coordinator.stewards import Stewards

log = logging.getLogger("rondo.coordinator")

CHECK_S = 0.5
#: A check that is so late was held up with the whole program: stopped, swapped out, or starved.
STOOD_STILL_S = 0.5
#: A record may come this much later than the first report of its instance.
STRANGER_S = 2.0
#: So long a stop waits for the disk to take what the journals hold.
JOURNAL_TIMEOUT_S = 3.0


class CoordinatorService:
    """Competes for every macro-instance it hears of and runs those it owns.

    Args:
        make_policy: a fresh policy object for a macro-instance.
        instance_timeout_s, lease_s, scaling: see CoordinatorSettings.
        journals: where decisions are recorded; must name the policy that `make_policy` makes.
        beats: where beats are heard, if not on `bus`: a connection that is read at leisure.
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
        scaling: ScalingSettings | None = None,
        journals: JournalFolder | None = None,
        beats: Bus | None = None,
    ) -> None:
        self._bus = bus
        self._beats = beats or bus
        self._id = coordinator_id
        self._instance_timeout_s = instance_timeout_s
        self._journals = journals
        self._outbox = Outbox(bus)
        self._watched = Watched()
        self._members = Membership()
        folder = journals.folder if journals else None
        scaling = scaling or ScalingSettings()
        self._stewards = Stewards(bus, coordinator_id, self._members, scaling, folder)
        self._ownership = Ownership(
            bus,
            self._outbox,
            coordinator_id,
            self._members,
            self._stewards,
            make_policy,
            metrics,
            lease_s,
            journals,
            self._watched,
        )
        self._strangers: dict[str, float] = {}
        self._clock: asyncio.Task[None] | None = None
        self.started = False
        metrics.watch(MacroMetrics(self._ownership.hosts))
        metrics.watch(ScalingMetrics(self._stewards))

    async def start(self) -> None:
        """Subscribes and begins to compete."""
        await self._bus.subscribe(subjects.all_reports(), self._on_report)
        await self._beats.subscribe(subjects.all_beats(), self._on_report)
        await self._bus.subscribe(subjects.STATUS, self._on_status)
        await self._watched.start(self._bus)
        await self._ownership.start()
        await (await self._bus.key_value(subjects.MACROS_BUCKET)).watch(self._on_macro)
        await (await self._bus.key_value(subjects.INSTANCES_BUCKET)).watch(self._on_instance)
        self._clock = asyncio.create_task(self._watch_time())
        self.started = True

    async def stop(self) -> None:
        """Stops acting, then releases all leases, so that others take over at once."""
        await self._ownership.stop()
        await end_task(self._clock)
        await self._stewards.close()
        await self._outbox.close()
        if self._journals and not await asyncio.to_thread(self._journals.close, JOURNAL_TIMEOUT_S):
            logs.warning(log, "journal_cut", waited_s=JOURNAL_TIMEOUT_S)

    # What comes in

    def _on_macro(self, update: KeyUpdate) -> None:
        if self._members.macro_changed(update) and isinstance(update.value, m.MacroRecord):
            self._ownership.settle(update.value.model)

    def _on_instance(self, update: KeyUpdate) -> None:
        before = self._members.instance_changed(update)
        record = self._members.instances.get(update.key)
        if record:
            self._stewards.came(record)
        if before and (record is None or record.model != before.model):
            self._stewards.went(before)
            self._ownership.settle(before.model)
        if record:
            self._ownership.settle(record.model)

    def _on_report(self, incoming: Incoming) -> None:
        report = incoming.message
        if not isinstance(report, m.Report):
            return
        if subjects.instance_of(incoming.subject) != report.instance_id:
            return  # the bus lets an instance report on its own subject, so for itself alone
        place = self._members.place(report.instance_id)
        if host := self._ownership.hosts.get(place or report.macro_id):
            host.on_report(report)
        holder = self._ownership.hosts.get(report.macro_id)
        if holder and place and place != report.macro_id and self._members.owned(place):
            holder.hand_over(report.instance_id, place)
        self._stewards.reported(report)
        self._look_for_strangers(report)

    def _look_for_strangers(self, report: m.Report) -> None:
        """Who reports but is nobody's would run unseen for ever: it is told to begin anew.

        It may have no record, for an owner before us dropped it and nobody told it; or what it
        obeys was merged away when there was no owner to hand it over.
        """
        known = report.instance_id in self._members.instances
        obeyed = not report.macro_id or report.macro_id in self._members.macros
        if not self._ownership.hosts or (known and obeyed):
            self._strangers.pop(report.instance_id, None)
            return
        now_s = time.monotonic()
        since_s = self._strangers.setdefault(report.instance_id, now_s)
        if now_s - since_s > STRANGER_S:
            self._strangers[report.instance_id] = now_s
            order = m.Rejoin(epoch=report.epoch, macro_id=report.macro_id)
            self._outbox.send(subjects.command(report.instance_id), order)

    def _on_status(self, incoming: Incoming) -> None:
        if not isinstance(incoming.message, m.StatusRequest) or incoming.respond is None:
            return
        respond = incoming.respond
        for macro_id, host in self._ownership.hosts.items():
            reply = host.status(self._ownership.model_of(macro_id), self._id)
            self._outbox.call("status", lambda reply=reply: respond(reply))  # type: ignore[misc]

    async def _watch_time(self) -> None:
        while True:
            began_s = time.monotonic()
            await asyncio.sleep(CHECK_S)
            stood_still = time.monotonic() - began_s > CHECK_S + STOOD_STILL_S
            # Else the silence is ours; what was said meanwhile is heard before the next check.
            if self._bus.connected and not stood_still:
                for host in self._ownership.hosts.values():
                    host.drop_silent(self._instance_timeout_s)
                self._stewards.tick(time.monotonic())
