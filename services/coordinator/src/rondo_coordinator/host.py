"""One owned macro-instance: messages become events of the policy, its effects become messages.

Decides nothing itself. Lives from the moment its lease is taken until it is lost; a new owner
starts with an empty one and rebuilds it from the members' full reports.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from rondo.bus.protocol import Incoming
from rondo.journal_writer import JournalWriter
from rondo.policy import events
from rondo.policy.events import Event, MacroScheduler
from rondo.service import logs
from rondo.service.outbox import Outbox
from rondo.service.watched import Watched
from rondo.types import MacroLoad, Progress, RequestInfo
from rondo.wire import messages as m
from rondo_coordinator.effects import Effects
from rondo_coordinator.members import Member
from rondo_coordinator.metrics import CoordinatorMetrics
from rondo_coordinator.news import News
from rondo_coordinator.orders import Orders

log = logging.getLogger("rondo.coordinator")

#: What an instance can serve is worked out this often.
RATE_INTERVAL_S = 5.0


class MacroHost:
    """Runs one policy object under one epoch.

    Args:
        dropped: called with the id of an instance that was silent for too long.
        changed: called when the members changed; watched: see `Effects.explain`.
        journal: where decisions are recorded; it belongs to this host.
    """

    def __init__(
        self,
        macro_id: str,
        epoch: int,
        policy: MacroScheduler,
        outbox: Outbox,
        metrics: CoordinatorMetrics,
        dropped: Callable[[str], None],
        changed: Callable[[], None],
        watched: Watched,
        journal: JournalWriter | None = None,
    ) -> None:
        self.macro_id = macro_id
        self.epoch = epoch
        self.members: dict[str, Member] = {}
        self._policy = policy
        self._metrics = metrics
        self._dropped = dropped
        self._changed = changed
        self._journal = journal
        self._effects = Effects(macro_id, epoch, outbox, metrics, watched)
        self._news = News(macro_id, epoch, self._effects.command)
        self._orders = Orders(macro_id, epoch, self._effects.command)
        self._given_up: dict[str, str] = {}  # incarnations dropped for silence
        self._rated_s = float("-inf")
        self._rate: float | None = None
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._wake_at_s: float | None = None  # the instant of the timer

    def close(self) -> None:
        """Stops acting; whoever waits for admission is told to ask again, and whom."""
        if self._closed:
            return
        self._closed = True
        self._effects.hand_back()
        if self._timer:
            self._timer.cancel()
        if self._journal:
            self._journal.close()

    @property
    def num_pending(self) -> int:
        """Requests that wait for admission."""
        return self._policy.num_pending

    @property
    def policy(self) -> MacroScheduler:
        """What decides here: to be looked at, not to be told anything."""
        return self._policy

    # Membership

    def add(self, record: m.InstanceRecord) -> None:
        """An instance registered; it joins with its first report of this incarnation."""
        instance_id = record.instance_id
        known = self.members.get(instance_id)
        if record.draining:
            self.remove(instance_id, "draining")
        elif known is None or known.record.incarnation != record.incarnation:
            self.remove(instance_id, "started anew")
            self._given_up.pop(instance_id, None)
            self.members[instance_id] = Member(record, time.monotonic())
            self._orders.report_fully(instance_id)

    def hand_over(self, instance_id: str, target_id: str) -> None:
        """The instance obeys another macro-instance from now on; told again until it does."""
        self.remove(instance_id, f"handed over to {target_id}")
        self._orders.hand_over(instance_id, target_id)

    def remove(self, instance_id: str, why: str) -> None:
        """An instance is gone."""
        if member := self.members.pop(instance_id, None):
            logs.info(log, "instance_left", instance=instance_id, why=why)
            self._changed()
            self._effects.publish("instance", {"instance": instance_id, "left": why})
            if member.joined:
                self._handle(events.InstanceLeft(at_s=time.monotonic(), instance_id=instance_id))

    def drop_silent(self, timeout_s: float) -> None:
        """Drops instances that were not heard for `timeout_s`."""
        now_s = time.monotonic()
        for instance_id, member in list(self.members.items()):
            silent_s = now_s - member.heard_s
            if silent_s > timeout_s:
                self._given_up[instance_id] = member.record.incarnation
                self.remove(instance_id, f"silent for {timeout_s:g} s")
                self._dropped(instance_id)
            else:
                self._orders.ask_silent(member, silent_s / timeout_s)

    # Messages in

    def on_submit(self, incoming: Incoming) -> None:
        """Admission, or its withdrawal."""
        now_s = time.monotonic()
        match incoming.message:
            case m.Submit() as submit:
                if reply := incoming.respond:
                    self._effects.expect_reply(submit.request_id, reply, submit.traceparent)
                if self._closed:  # it came before the subscription ended
                    self._effects.hand_back()
                    return
                info = RequestInfo(
                    request_id=submit.request_id,
                    prompt_tokens=submit.prompt_tokens,
                    max_tokens=submit.max_tokens,
                    predicted_tokens=submit.predicted_tokens,
                    slo=submit.slo,
                    arrival_s=now_s - submit.age_s,
                    background=submit.background,
                )
                self._handle(events.RequestArrived(at_s=now_s, request=info))
            case m.Cancel(request_id=request_id):
                self._effects.forget_reply(request_id)
                if self._closed:
                    return
                self._handle(events.RequestCancelled(at_s=now_s, request_id=request_id))
            case other:
                kind = type(other).__name__
                logs.warning(log, "unexpected_message", subject=incoming.subject, kind=kind)

    def on_report(self, report: m.Report) -> None:
        """A member's report; others are told to register."""
        member = self.members.get(report.instance_id)
        if member is None or member.record.incarnation != report.incarnation:
            if self._given_up.get(report.instance_id) == report.incarnation:
                self._orders.rejoin(report)
            return
        now_s = time.monotonic()
        member.heard_s = now_s
        if report.macro_id not in ("", self.macro_id):  # it has still to be handed over to us
            return
        if isinstance(report, m.Beat):
            self._on_beat(member, report)
            return
        if member.sequence.observe(report.instance_id, report.incarnation, report.seq):
            self._metrics.gaps.inc()
            self._orders.report_fully(report.instance_id)
        match report:
            case m.StepReport(progress=progress):
                self._on_progress(member, progress, now_s)
                if progress.members == ():
                    self._orders.may_beat(member, now_s)
            case m.TurnEnded():
                self._effects.publish_turn("turn_ended", report, report.duration_s)
                closed = events.TurnClosed(
                    at_s=now_s,
                    instance_id=report.instance_id,
                    turn=report.turn,
                    duration_s=report.duration_s,
                    leftover=report.leftover,
                )
                if member.joined:
                    self._handle(closed)
            case m.TurnBegan():
                self._effects.publish_turn("turn_began", report, report.waited_s)

    def _on_beat(self, member: Member, beat: m.Beat) -> None:
        """It has no news: it is asked for all it knows where we missed some, or expect some."""
        instance_id = beat.instance_id
        expected = member.sequence.expected(instance_id, beat.incarnation)
        if expected is not None and beat.seq < expected:
            return  # a report has overtaken it, for beats are read at leisure
        if beat.seq != expected or not member.joined or self._policy.expects_news(instance_id):
            self._orders.report_soon(instance_id)

    def _on_progress(self, member: Member, progress: Progress, now_s: float) -> None:
        member.progress = progress
        instance_id = member.record.instance_id
        if not member.joined:
            if progress.members is not None:
                self._join(member, progress, now_s)
            return
        self._handle(
            events.InstanceReported(at_s=now_s, instance_id=instance_id, progress=progress)
        )

    def _join(self, member: Member, progress: Progress, now_s: float) -> None:
        member.joined = True
        self._changed()
        record = member.record
        logs.info(log, "instance_joined", instance=record.instance_id, macro=self.macro_id)
        self._effects.publish("instance", {"instance": record.instance_id, "joined": self.macro_id})
        self._handle(events.InstanceJoined(at_s=now_s, instance=member.info, progress=progress))

    # Effects out

    def _handle(self, event: Event) -> None:
        decision = self._policy.handle(event)
        if self._journal and self._journal.append(event, decision):
            self._metrics.journalled.inc()
        for effect in decision.effects:
            self._effects.perform(effect)
        self._effects.explain(event, decision)
        if self._policy.num_pending:
            self._news.waited_for(self.members.values(), event.at_s)
        if decision.wake_at_s != self._wake_at_s:
            self._wake_at(decision.wake_at_s)

    def _wake_at(self, at_s: float | None) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer, self._wake_at_s = None, at_s
        if at_s is not None:
            delay_s = max(0.0, at_s - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer, self._wake_at_s = None, None
        self._handle(events.Tick(at_s=time.monotonic()))

    # Looking in

    def load(self) -> MacroLoad:
        """For gateways that choose among macro-instances, and for scaling."""
        members = [member for member in self.members.values() if member.joined]
        states = [member.progress for member in members if member.progress]
        pools = [state.kv for state in states]
        count = self._policy.load
        return MacroLoad(
            num_pending=self.num_pending,
            num_running=sum(state.num_running + state.num_waiting for state in states),
            free_blocks=max((kv.free_blocks + kv.background_blocks for kv in pools), default=0),
            block_size=max((member.record.block_size for member in members), default=1),
            saved_tpot_s=self._policy.mean_saved_tpot_s(time.monotonic()),
            instance_rate=self._instance_rate(),
            num_served=count.num_served,
            ttft_s=count.ttft_s,
            ttft_limit_s=count.ttft_limit_s,
            num_refused=count.num_refused,
        )

    def _instance_rate(self) -> float | None:
        """Milliseconds of work, so not for every beat of the lease."""
        now_s = time.monotonic()
        if now_s - self._rated_s >= RATE_INTERVAL_S:
            self._rated_s, self._rate = now_s, self._policy.instance_rate()
        return self._rate

    def publish(self, kind: str, fields: m.Fields) -> None:
        """An event for observers, from this macro-instance."""
        self._effects.publish(kind, fields)

    def status(self, model: str, owner_id: str) -> m.StatusReply:
        """The state for `rondo status`."""
        now_s = time.monotonic()
        return m.StatusReply(
            macro_id=self.macro_id,
            model=model,
            owner_id=owner_id,
            epoch=self.epoch,
            num_pending=self.num_pending,
            instances=tuple(member.status(now_s) for member in self.members.values()),
        )
