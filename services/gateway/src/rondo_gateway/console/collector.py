"""Follows the cluster over the bus while somebody looks.

Three sources, each of which is there anyway: the buckets (who is there, who belongs where), the
coordinators' events (turns, decisions with their reasons, splits and merges) and their answers to
StatusRequest. In small clusters the instances' reports come on top, which makes lanes exact to a
step; in large ones they would be tens of thousands a second. So the cost grows with turns and
admissions, not with steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from rondo.bus import subjects
from rondo.bus.protocol import Bus, Incoming, KeyUpdate, Subscription
from rondo.bus.tasks import end_task
from rondo.errors import PeerError
from rondo.service.watched import BEAT_S
from rondo.wire import messages as m
from rondo_gateway.console.picture import Picture
from rondo_gateway.console.view import Millis

#: Clusters of up to so many instances are shown to the step.
DETAILED_LANES = 64
POLL_S = 0.5
#: How long owners have to say how things stand.
ANSWER_WAIT_S = 0.25


class Collector:
    """Runs between `start` and `stop`, once. Its clock begins when it is made."""

    def __init__(self, bus: Bus, gateway_id: str) -> None:
        self._bus = bus
        self._gateway_id = gateway_id
        self._zero_s = time.monotonic()
        self._subscriptions: list[Subscription] = []
        self._reports: Subscription | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.picture = Picture()

    def now(self) -> Millis:
        """Milliseconds since this collector was made."""
        return int((time.monotonic() - self._zero_s) * 1000)

    async def start(self) -> None:
        """Subscribes.

        Raises:
            PeerError: the bus is not there.
        """
        bus = self._bus
        macros = await bus.key_value(subjects.MACROS_BUCKET)
        self._subscriptions.append(await macros.watch(self._on_macro))
        instances = await bus.key_value(subjects.INSTANCES_BUCKET)
        self._subscriptions.append(await instances.watch(self._on_instance))
        self._subscriptions.append(await bus.subscribe(subjects.all_events(), self._on_event))
        work = (self._beat(), self._poll(), self._count())
        self._tasks = [asyncio.create_task(one) for one in work]

    async def stop(self) -> None:
        """Hears nothing any more; also after a `start` that failed."""
        await end_task(*self._tasks)
        reports = [self._reports] if self._reports else []
        for subscription in (*self._subscriptions, *reports):
            await subscription.close()

    # What comes in

    def _on_macro(self, update: KeyUpdate) -> None:
        record = update.value if isinstance(update.value, m.MacroRecord) else None
        self.picture.macro(self.now(), update.key, record)

    def _on_instance(self, update: KeyUpdate) -> None:
        record = update.value if isinstance(update.value, m.InstanceRecord) else None
        self.picture.instance(update.key, record)

    def _on_event(self, incoming: Incoming) -> None:
        if isinstance(incoming.message, m.Event):
            self.picture.event(self.now(), incoming.message)

    def _on_report(self, incoming: Incoming) -> None:
        if isinstance(incoming.message, m.StepReport):
            self.picture.report(self.now(), incoming.message)

    # What is done meanwhile

    async def _beat(self) -> None:
        """Says that somebody looks."""
        while True:
            with contextlib.suppress(PeerError):
                await self._bus.publish(subjects.WATCH, m.Watching(gateway_id=self._gateway_id))
            await asyncio.sleep(BEAT_S)

    async def _poll(self) -> None:
        """Asks how things stand."""
        while True:
            with contextlib.suppress(PeerError):
                await self._follow_reports()
                replies = await self._bus.request_many(
                    subjects.STATUS, m.StatusRequest(), ANSWER_WAIT_S
                )
                for reply in replies:
                    if isinstance(reply, m.StatusReply):
                        self.picture.status(self.now(), reply)
            await asyncio.sleep(POLL_S - ANSWER_WAIT_S)

    async def _follow_reports(self) -> None:
        """Of small clusters only."""
        wanted = 0 < self.picture.num_lanes <= DETAILED_LANES
        if wanted and self._reports is None:
            self._reports = await self._bus.subscribe(subjects.all_reports(), self._on_report)
        elif not wanted and self._reports is not None:
            reports, self._reports = self._reports, None
            await reports.close()
            self.picture.no_reports()

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.picture.second(self.now())
