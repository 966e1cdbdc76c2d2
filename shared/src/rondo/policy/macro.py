"""What every macro-instance scheduler keeps: instances, the pending queue, who was placed where.

A policy derives from MacroState and implements `_arrived` and `_changed`, which run after each
event.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import msgspec

from rondo.errors import InvariantError
from rondo.perf.correction import CorrectedModel
from rondo.policy import events
from rondo.policy.background_desk import BackgroundDesk
from rondo.policy.changes import Changes
from rondo.policy.events import AnyEffect, Decision, Event
from rondo.policy.kinds import Kinds
from rondo.policy.load_count import LoadCount, mean_saved_tpot_s
from rondo.policy.pending import PendingQueue
from rondo.policy.view import InstanceView
from rondo.types import Batching, Phase, RequestInfo

#: Budget of a turn that ends when its prompts do.
UNBOUNDED_S = 3600.0


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the pending queue: everything ends."""

    max_wait_s: float = 60.0
    max_pending: int = 4096


class MacroState(ABC):
    """Takes events in; collects effects and reasons for one decision at a time."""

    def __init__(self, queue: QueueSettings) -> None:
        self.queue = queue
        self.views: dict[str, InstanceView] = {}
        self.pending = PendingQueue()
        self.background = BackgroundDesk(self, queue.max_wait_s, queue.max_pending)
        self.load = LoadCount()
        self.placed: dict[str, events.Admit] = {}
        self._kinds = Kinds()
        self._next_rank = 0
        self._effects: list[AnyEffect] = []
        self._reasons: list[str] = []

    # Hooks of a policy

    @abstractmethod
    def _arrived(self, request: RequestInfo, at_s: float) -> None:
        """A request was put into `pending`."""

    @abstractmethod
    def _changed(self, view: InstanceView, changes: Changes, at_s: float) -> None:
        """An instance joined or reported, its turn closed or a request left it."""

    def _finish(self, at_s: float) -> None:  # noqa: B027 - a policy may have nothing to add
        """All is decided: last effects."""

    def _new_view(self, info: events.InstanceInfo, rank: int) -> InstanceView:
        """What is to be believed of an instance that joins."""
        return InstanceView(info, rank)

    def _rank(self, request: RequestInfo, alone_s: float) -> float:
        """Orders the queue: the instant at which the request's TTFT limit ends."""
        return request.arrival_s + request.slo.ttft_s

    def retry_after_s(self) -> float:
        """What a refusal because of load says: the time until the queue is prefilled."""
        return max(1.0, self.pending.work_s / max(1, len(self.views)))

    # As MacroScheduler

    @property
    def num_pending(self) -> int:
        """Requests that wait for admission."""
        return self.pending.num

    @property
    def latencies(self) -> dict[str, CorrectedModel]:
        """Predicts the steps of each instance, as corrected so far."""
        return {instance_id: view.latency for instance_id, view in self.views.items()}

    def mean_saved_tpot_s(self, at_s: float) -> float | None:
        """Mean saved TPOT of all that decodes; None when nothing does."""
        tables = ((view.running.slack, view.decode_steps) for view in self.views.values())
        return mean_saved_tpot_s(tables, at_s)

    def saved_tpot_s(self, at_s: float) -> dict[str, tuple[float, float]]:
        """Mean and least saved TPOT of what decodes, of each instance on which something does."""
        saved: dict[str, tuple[float, float]] = {}
        for instance_id, view in self.views.items():
            slack, steps = view.running.slack, view.decode_steps
            if len(slack):
                least_s = slack.quantile_s(0.0, steps, at_s)
                saved[instance_id] = (slack.mean_s(steps, at_s), least_s)
        return saved

    def expects_news(self, instance_id: str) -> bool:
        """See MacroScheduler."""
        view = self.views.get(instance_id)
        idle = view is not None and view.phase is Phase.IDLE and not view.num_requests
        return not idle or self.pending.num > 0 or self.background.expects_news(instance_id)

    def instance_rate(self) -> float | None:
        """Requests/s that an instance can serve of what came lately; None: not known yet."""
        return self._kinds.rate(self.load.lengths())

    def handle(self, event: Event) -> Decision:
        """Takes one event in and says what to do."""
        self._effects, self._reasons = [], []
        if self.pending.num:
            self._expire(event.at_s)
        self._take(event)
        self._finish(event.at_s)
        self.background.take(event)
        if self.background.pending:
            self.background.place(event.at_s)
        return Decision(
            effects=tuple(self._effects),
            wake_at_s=self._wake_at_s() if self.pending.num else None,
            reasons=tuple(self._reasons),
        )

    def check_invariants(self) -> None:
        """Raises InvariantError when a request is in two places."""
        seen = [request.request_id for request in self.pending]
        for view in self.views.values():
            for group in (view.outstanding, view.fresh, view.running, view.carry):
                seen.extend(group)
        if len(seen) != len(set(seen)):
            raise InvariantError("macro-instance: a request is in two places")

    # For policies

    def effect(self, effect: AnyEffect) -> None:
        """Adds an effect to the decision."""
        self._effects.append(effect)

    def reason(self, text: str) -> None:
        """Adds a reason to the decision."""
        self._reasons.append(text)

    def place(self, admit: events.Admit) -> None:
        """Moves a pending request to the instance it was admitted to."""
        self.pending.pop(admit.request_id)
        self.placed[admit.request_id] = admit
        self._effects.append(admit)

    def refuse(
        self, request: RequestInfo, reason: str, detail: str, retry_after_s: float | None
    ) -> None:
        """Takes a request out of the queue and refuses it."""
        self.pending.pop(request.request_id)
        self.load.num_refused += reason in ("overloaded", "queue_full")
        self.effect(
            events.Reject(
                request_id=request.request_id,
                reason=reason,
                detail=detail,
                retry_after_s=retry_after_s,
            )
        )

    def send_turn(
        self, view: InstanceView, request_ids: Iterable[str], opens: bool, batching: Batching
    ) -> None:
        """A token, or the extension of the one that the instance holds."""
        view.batching = batching
        kind = events.GrantTurn if opens else events.ExtendTurn
        self._effects.append(
            kind(
                instance_id=view.info.instance_id,
                turn=view.turn,
                request_ids=tuple(request_ids),
                budget_s=UNBOUNDED_S,
                batching=batching,
            )
        )

    @staticmethod
    def fits(view: InstanceView, request: RequestInfo) -> bool:
        """Whether the instance could ever hold the request."""
        return request.prompt_tokens + request.max_tokens <= view.most_tokens

    def _wake_at_s(self) -> float | None:
        oldest = self.pending.oldest()
        return None if oldest is None else oldest.arrival_s + self.queue.max_wait_s

    # Events

    def _take(self, event: Event) -> None:
        match event:
            case events.RequestArrived():
                self._arrive(event.request, event.at_s)
            case events.InstanceReported():
                if known := self.views.get(event.instance_id):
                    self._observe(known, known.take(event.progress, event.at_s), event.at_s)
            case events.TurnClosed():
                if known := self.views.get(event.instance_id):
                    self._observe(known, known.close_turn(event), event.at_s)
            case events.RequestCancelled():
                self._cancel(event.request_id, event.at_s)
            case events.InstanceJoined():
                instance_id = event.instance.instance_id
                self._leave(instance_id)
                view = self._new_view(event.instance, self._next_rank)
                self.views[instance_id] = view
                self._kinds.sort(self.views.values())
                self._next_rank += 1
                self._observe(view, view.take(event.progress, event.at_s), event.at_s)
            case events.InstanceLeft():
                self._leave(event.instance_id)

    def _arrive(self, request: RequestInfo, at_s: float) -> None:
        if admitted := self.placed.get(request.request_id):
            self.effect(admitted)  # the gateway missed the answer
        elif request.request_id in self.pending:
            pass
        elif self.views and request.prompt_tokens + request.max_tokens > self._kinds.most_tokens:
            total = request.prompt_tokens + request.max_tokens
            self.refuse(request, "too_long", f"no instance can hold {total} tokens", None)
        elif request.background:
            self.background.add(request)
        elif self.pending.num >= self.queue.max_pending:
            waiting = f"{self.pending.num} requests are waiting"
            self.refuse(request, "queue_full", waiting, self.retry_after_s())
        else:
            alone_s = self._kinds.alone_s(request.prompt_tokens)
            self.pending.add(request, self._rank(request, alone_s), alone_s)
            self._arrived(request, at_s)

    def _cancel(self, request_id: str, at_s: float) -> None:
        self.pending.pop(request_id)
        if admitted := self.placed.pop(request_id, None):
            self.effect(events.CancelOn(instance_id=admitted.instance_id, request_id=request_id))
            if view := self.views.get(admitted.instance_id):
                view.forget(request_id)
                self._changed(view, Changes(gone=[request_id]), at_s)

    def _leave(self, instance_id: str) -> None:
        if self.views.pop(instance_id, None):
            self._kinds.sort(self.views.values())
            self.placed = {r: a for r, a in self.placed.items() if a.instance_id != instance_id}

    def _expire(self, at_s: float) -> None:
        max_wait_s = self.queue.max_wait_s
        while (request := self.pending.oldest()) and at_s >= request.arrival_s + max_wait_s:
            if self.views:
                detail = f"waited {max_wait_s:g} s for capacity"
                self.refuse(request, "overloaded", detail, self.retry_after_s())
            else:
                detail = f"waited {max_wait_s:g} s for an instance"
                self.refuse(request, "no_instances", detail, 1.0)

    def _observe(self, view: InstanceView, changes: Changes, at_s: float) -> None:
        """Compares predictions with what became of them, and lets the policy act."""
        instance_id = view.info.instance_id
        for begun in changes.begun:
            self.load.began(begun)
            if admitted := self.placed.get(begun.request_id):
                self.effect(
                    events.Observed(
                        request_id=begun.request_id,
                        instance_id=instance_id,
                        predicted_ttft_s=admitted.predicted_ttft_s,
                        actual_ttft_s=begun.ttft_s,
                    )
                )
        for end in changes.ended:
            self.load.ended(end)
            if (admitted := self.placed.pop(end.request_id, None)) and end.tpot_s is not None:
                self.effect(
                    events.Observed(
                        request_id=end.request_id,
                        instance_id=instance_id,
                        predicted_tpot_s=admitted.predicted_tpot_s,
                        actual_tpot_s=end.tpot_s,
                    )
                )
        for request_id in changes.gone:
            self.placed.pop(request_id, None)
        self._changed(view, changes, at_s)
