"""Macro-instance scheduler after EcoServe (arXiv 2504.18154, algorithm 1): rolling activation.

A request goes to the instance that took the last one while the checks of `admission` hold, else to
the next in cyclic order; where all fail it stays pending and is tried again on every event.
Deviations: pending requests that cannot meet their TTFT any more come after those that can and go
where their decode starts soonest, and the queue is bounded in length and time. Ties go by order of
arrival and rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rondo.policy import admission, events
from rondo.policy.macro import MacroState, QueueSettings
from rondo.policy.view import InstanceView
from rondo.types import Phase, RequestInfo

#: Pending requests tried on one event; bounds the cost of a decision under overload.
TRIES_PER_EVENT = 64
#: A turn may take this much longer than predicted before decode takes over again.
BUDGET_FACTOR = 1.5


@dataclass(slots=True)
class _Grant:
    """Requests to hand to one instance with this decision."""

    opens: bool
    request_ids: list[str] = field(default_factory=list)


class PadgScheduler(MacroState):
    """Implements MacroScheduler.

    Args:
        slack_quantile: which quantile of the saved TPOT must cover a turn; None takes the mean, as
            the paper does. queue: bounds of the pending queue.
    """

    def __init__(
        self, *, slack_quantile: float | None = 0.1, queue: QueueSettings | None = None
    ) -> None:
        super().__init__(queue or QueueSettings())
        if slack_quantile is not None and not 0 <= slack_quantile <= 1:
            raise ValueError(f"slack_quantile: {slack_quantile} is not between 0 and 1")
        self.slack_quantile = slack_quantile
        self._current = 0  # rank of the instance that took the last request
        self._grants: dict[str, _Grant] = {}

    def decide(self, at_s: float) -> None:
        """Takes finished turns back, grants leftovers, admits, and sends tokens."""
        self._grants = {}
        for view in self.views.values():
            self._take_back(view)
            self._regrant(view, at_s)
        if self.views and self.pending:
            self._admit_pending(at_s)
        for instance_id, grant in self._grants.items():
            self._send(self.views[instance_id], grant, at_s)

    def _take_back(self, view: InstanceView) -> None:
        busy = view.outstanding or view.fresh or view.phase is Phase.PREFILL
        if view.turn_open and not busy:
            view.turn_open = False
            self.effect(events.RevokeTurn(instance_id=view.info.instance_id, turn=view.turn))

    def _regrant(self, view: InstanceView, at_s: float) -> None:
        """Sends lost grants again; grants what an earlier turn left, once it has been paid for."""
        if lost := view.resend(at_s):
            self._grants[view.info.instance_id] = _Grant(opens=True, request_ids=lost)
        if not view.carry or view.outstanding:
            return
        turn_s = view.prefill_s(request.prompt_tokens for request in view.carry.values())
        saved_s = admission.slack_s(view, at_s, self.slack_quantile)
        rested = at_s - view.closed_s >= view.last_turn_s
        if saved_s is None or saved_s >= turn_s or rested:
            self._grant(view, list(view.carry.values()), at_s)

    def _ring(self) -> list[InstanceView]:
        """Instances in cyclic order, from the one that took the last request."""
        views = list(self.views.values())
        start = next((i for i, view in enumerate(views) if view.rank >= self._current), 0)
        return views[start:] + views[:start]

    def _admit_pending(self, at_s: float) -> None:
        views = list(self.views.values())
        on_time: list[RequestInfo] = []
        late: list[RequestInfo] = []
        for request in self.pending.values():
            hopeless = all(admission.is_hopeless(view, request, at_s) for view in views)
            (late if hopeless else on_time).append(request)
        for request in [*on_time, *late][:TRIES_PER_EVENT]:
            self._try_admit(request, at_s, late=request in late)

    def _try_admit(self, request: RequestInfo, at_s: float, late: bool) -> None:
        """The first instance of the ring whose checks pass; for a late request the soonest one."""
        refusals: list[str] = []
        best: tuple[InstanceView, admission.Verdict] | None = None
        for view in self._ring():
            if not self.fits(view, request):
                continue
            verdict = admission.check(view, request, at_s, quantile=self.slack_quantile, late=late)
            if not verdict.ok:
                refusals.extend(verdict.reasons)
            elif best is None or verdict.predicted_ttft_s < best[1].predicted_ttft_s:
                best = view, verdict
                if not late:
                    break
        if best is None:
            self.reason(f"{request.request_id} stays pending: {'; '.join(refusals)}")
        else:
            self._admit(best[0], request, at_s, best[1], (*refusals, *best[1].reasons))

    def _admit(
        self,
        view: InstanceView,
        request: RequestInfo,
        at_s: float,
        verdict: admission.Verdict,
        reasons: tuple[str, ...],
    ) -> None:
        self._current = view.rank
        self._grant(view, [request], at_s)
        prompts = sum(r.prompt_tokens for r in view.outstanding.values())
        tpot_s = view.info.latency.decode_s(view.num_requests, view.context_tokens() + prompts)
        self.place(
            events.Admit(
                request_id=request.request_id,
                instance_id=view.info.instance_id,
                turn=view.turn,
                predicted_ttft_s=verdict.predicted_ttft_s,
                predicted_tpot_s=tpot_s,
                reasons=reasons,
            )
        )

    def _grant(self, view: InstanceView, requests: list[RequestInfo], at_s: float) -> None:
        opens = view.grant(requests, at_s)
        grant = self._grants.setdefault(view.info.instance_id, _Grant(opens))
        grant.request_ids.extend(request.request_id for request in requests)

    def _send(self, view: InstanceView, grant: _Grant, at_s: float) -> None:
        """One token or extension an instance and decision, with the time the turn may take."""
        turn_s = view.prefill_s(request.prompt_tokens for request in view.outstanding.values())
        saved_s = admission.slack_s(view, at_s, self.slack_quantile)
        elapsed_s = at_s - view.turn_opened_s
        kind = events.GrantTurn if grant.opens else events.ExtendTurn
        self.effect(
            kind(
                instance_id=view.info.instance_id,
                turn=view.turn,
                request_ids=tuple(grant.request_ids),
                budget_s=elapsed_s + max(turn_s * BUDGET_FACTOR, saved_s or 0.0),
            )
        )
