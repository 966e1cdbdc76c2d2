"""What every macro-instance scheduler keeps: instances, the pending queue, who was placed where.

A policy derives from MacroState and implements `decide`, which runs after each event.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import msgspec

from rondo.errors import InvariantError
from rondo.policy import events
from rondo.policy.events import AnyEffect, Decision, Event
from rondo.policy.view import Changes, InstanceView
from rondo.types import RequestInfo


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the pending queue: everything ends."""

    max_wait_s: float = 60.0
    max_pending: int = 4096


class MacroState(ABC):
    """Takes events in; collects effects and reasons for one decision at a time."""

    def __init__(self, queue: QueueSettings) -> None:
        self.queue = queue
        self.views: dict[str, InstanceView] = {}
        self.pending: dict[str, RequestInfo] = {}
        self.placed: dict[str, events.Admit] = {}
        self._next_rank = 0
        self._effects: list[AnyEffect] = []
        self._reasons: list[str] = []

    @abstractmethod
    def decide(self, at_s: float) -> None:
        """Places what can be placed, calling `effect`, `reason` and `place`."""

    @property
    def num_pending(self) -> int:
        """Requests that wait for admission."""
        return len(self.pending)

    def handle(self, event: Event) -> Decision:
        """Takes one event in and says what to do."""
        self._effects, self._reasons = [], []
        self._take(event)
        self._expire(event.at_s)
        self.decide(event.at_s)
        wake_at_s = min(
            (r.arrival_s + self.queue.max_wait_s for r in self.pending.values()), default=None
        )
        return Decision(
            effects=tuple(self._effects), wake_at_s=wake_at_s, reasons=tuple(self._reasons)
        )

    def check_invariants(self) -> None:
        """Raises InvariantError when a request is in two places."""
        seen = list(self.pending)
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
        del self.pending[admit.request_id]
        self.placed[admit.request_id] = admit
        self.effect(admit)

    def drain_s(self) -> float:
        """Predicted time until the pending queue is prefilled; what Retry-After says."""
        if not self.views:
            return 1.0
        view = next(iter(self.views.values()))
        work_s = view.prefill_s(request.prompt_tokens for request in self.pending.values())
        return max(1.0, work_s / len(self.views))

    @staticmethod
    def fits(view: InstanceView, request: RequestInfo) -> bool:
        """Whether the instance could ever hold the request."""
        total = request.prompt_tokens + request.max_tokens
        return total <= min(view.info.max_model_len, view.info.num_blocks * view.info.block_size)

    # Events

    def _take(self, event: Event) -> None:
        match event:
            case events.RequestArrived():
                self._arrive(event.request)
            case events.RequestCancelled():
                self._cancel(event.request_id)
            case events.InstanceJoined():
                instance_id = event.instance.instance_id
                self._leave(instance_id)
                view = InstanceView(event.instance, self._next_rank)
                self.views[instance_id] = view
                self._next_rank += 1
                self._observe(view, view.take(event.progress, event.at_s))
            case events.InstanceLeft():
                self._leave(event.instance_id)
            case events.InstanceReported():
                if known := self.views.get(event.instance_id):
                    self._observe(known, known.take(event.progress, event.at_s))
            case events.TurnClosed():
                if known := self.views.get(event.instance_id):
                    self._observe(known, known.close_turn(event))
            case events.Tick():
                pass

    def _arrive(self, request: RequestInfo) -> None:
        if admitted := self.placed.get(request.request_id):
            self.effect(admitted)  # the gateway missed the answer
        elif request.request_id in self.pending:
            pass
        elif self.views and not any(self.fits(view, request) for view in self.views.values()):
            total = request.prompt_tokens + request.max_tokens
            self._reject(request, "too_long", f"no instance can hold {total} tokens", None)
        elif len(self.pending) >= self.queue.max_pending:
            waiting = f"{len(self.pending)} requests are waiting"
            self._reject(request, "queue_full", waiting, self.drain_s())
        else:
            self.pending[request.request_id] = request

    def _cancel(self, request_id: str) -> None:
        self.pending.pop(request_id, None)
        if admitted := self.placed.pop(request_id, None):
            if view := self.views.get(admitted.instance_id):
                view.forget(request_id)
            self.effect(events.CancelOn(instance_id=admitted.instance_id, request_id=request_id))

    def _leave(self, instance_id: str) -> None:
        if self.views.pop(instance_id, None):
            self.placed = {r: a for r, a in self.placed.items() if a.instance_id != instance_id}

    def _expire(self, at_s: float) -> None:
        max_wait_s = self.queue.max_wait_s
        for request in [r for r in self.pending.values() if at_s - r.arrival_s >= max_wait_s]:
            del self.pending[request.request_id]
            if self.views:
                detail = f"waited {max_wait_s:g} s for capacity"
                self._reject(request, "overloaded", detail, self.drain_s())
            else:
                detail = f"waited {max_wait_s:g} s for an instance"
                self._reject(request, "no_instances", detail, 1.0)

    def _reject(
        self, request: RequestInfo, reason: str, detail: str, retry_after_s: float | None
    ) -> None:
        self.effect(
            events.Reject(
                request_id=request.request_id,
                reason=reason,
                detail=detail,
                retry_after_s=retry_after_s,
            )
        )

    def _observe(self, view: InstanceView, changes: Changes) -> None:
        """Compares predictions with what became of them."""
        instance_id = view.info.instance_id
        for start in changes.started:
            if admitted := self.placed.get(start.request_id):
                self.effect(
                    events.Observed(
                        request_id=start.request_id,
                        instance_id=instance_id,
                        predicted_ttft_s=admitted.predicted_ttft_s,
                        actual_ttft_s=start.ttft_s,
                    )
                )
        for end in changes.ended:
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
