"""Rolling activation (EcoServe, arXiv 2504.18154, section 4): turns, tokens, and the ring.

A request goes to the instance that took the last one while the checks hold, else to the next in
cyclic order; where all fail it stays pending and is tried again whenever an instance reports.
What the checks are, and how a turn fills its steps, is up to the policies that derive from this.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field

from rondo.policy import events
from rondo.policy.admission import Failed, Verdict
from rondo.policy.changes import Changes
from rondo.policy.macro import MacroState, QueueSettings
from rondo.policy.view import InstanceView
from rondo.types import Batching, Phase, RequestInfo

#: Pending requests tried when an instance reports, and failures after which to stop: they bound
#: the cost of a decision under overload.
TRIES_PER_REPORT = 64
FAILURES_PER_REPORT = 4


@dataclass(slots=True)
class _Grant:
    """Requests to hand to one instance with this decision; `batching` as the last check of one
    settled it."""

    opens: bool
    request_ids: list[str] = field(default_factory=list)
    batching: Batching | None = None


class RollingScheduler(MacroState):
    """Implements MacroScheduler up to the checks."""

    def __init__(self, queue: QueueSettings) -> None:
        super().__init__(queue)
        self._current = 0  # rank of the instance that took the last request
        self._grants: dict[str, _Grant] = {}

    # What a policy says

    @abstractmethod
    def _check(self, view: InstanceView, request: RequestInfo, at_s: float) -> Verdict:
        """Whether the instance may take the request now."""

    @abstractmethod
    def _batching(self, view: InstanceView, at_s: float) -> Batching:
        """How the instance fills its steps in the turn that is granted now."""

    def _order(self, request: RequestInfo) -> Iterable[InstanceView]:
        """Instances in cyclic order, from the one that took the last request."""
        views = list(self.views.values())
        start = next((i for i, view in enumerate(views) if view.rank >= self._current), 0)
        return views[start:] + views[:start]

    # Hooks of MacroState

    def _arrived(self, request: RequestInfo, at_s: float) -> None:
        refusals: list[str] = []
        most_tokens = request.prompt_tokens + request.max_tokens
        for view in self._order(request):
            if most_tokens > view.most_tokens:
                continue
            verdict = self._check(view, request, at_s)
            if verdict.failed is None:
                self._admit(view, request, at_s, verdict, refusals)
                return
            self.load.held(verdict.failed)
            refusals.append(f"{view.info.instance_id}: {verdict.failed}: {verdict.reason}")
        self.reason(f"{request.request_id} stays pending: {'; '.join(refusals)}")

    def _changed(self, view: InstanceView, changes: Changes, at_s: float) -> None:
        self._take_back(view)
        self._regrant(view, at_s)
        if self.pending.num:
            self._try_pending(view, self.pending.first(TRIES_PER_REPORT), at_s)

    def _finish(self, at_s: float) -> None:
        if not self._grants:
            return
        grants, self._grants = self._grants, {}
        for instance_id, grant in grants.items():
            if view := self.views.get(instance_id):
                batching = grant.batching or self._batching(view, at_s)
                self.send_turn(view, grant.request_ids, grant.opens, batching)

    # Placing

    def _try_pending(
        self, view: InstanceView, requests: Iterable[RequestInfo], at_s: float
    ) -> None:
        failures = 0
        for request in requests:
            if not self.fits(view, request):
                continue
            verdict = self._check(view, request, at_s)
            if verdict.failed is None:
                waited_s = at_s - request.arrival_s
                self._admit(view, request, at_s, verdict, [f"was pending for {waited_s:.3f} s"])
                continue
            self.load.held(verdict.failed)
            failures += 1
            if verdict.failed is Failed.BUSY or failures == FAILURES_PER_REPORT:
                return

    def _admit(
        self,
        view: InstanceView,
        request: RequestInfo,
        at_s: float,
        verdict: Verdict,
        before: list[str],
    ) -> None:
        self._current = view.rank
        self._grant(view, [request], at_s).batching = verdict.batching
        self.place(
            events.Admit(
                request_id=request.request_id,
                instance_id=view.info.instance_id,
                turn=view.turn,
                predicted_ttft_s=verdict.predicted_ttft_s,
                predicted_tpot_s=self._predicted_tpot_s(view),
                reasons=(*before, f"{view.info.instance_id}: {verdict.reason}"),
            )
        )

    @staticmethod
    def _predicted_tpot_s(view: InstanceView) -> float:
        num = view.running.num + len(view.fresh) + len(view.outstanding)
        tokens = view.context_tokens() + view.waiting.prompt_tokens
        for live in view.fresh.values():
            tokens += live.info.prompt_tokens
        return view.latency.step_s(0, 0, num, tokens)

    # Turns

    def _take_back(self, view: InstanceView) -> None:
        busy = view.outstanding or view.fresh or view.phase in (Phase.PREFILL, Phase.FUSED)
        if view.turn_open and not busy:
            view.turn_open = False
            self.effect(events.RevokeTurn(instance_id=view.info.instance_id, turn=view.turn))

    def _regrant(self, view: InstanceView, at_s: float) -> None:
        """Sends lost grants again, and grants what is there without a grant."""
        if view.grants.lost:
            lost = view.grants.resend(at_s)
            self._grants[view.info.instance_id] = _Grant(opens=True, request_ids=lost)
        if view.carry and not view.outstanding:
            self._grant(view, list(view.carry.values()), at_s)

    def _grant(self, view: InstanceView, requests: list[RequestInfo], at_s: float) -> _Grant:
        opens = view.grant(requests, at_s)
        grant = self._grants.get(view.info.instance_id)
        if grant is None:
            grant = self._grants[view.info.instance_id] = _Grant(opens)
        for request in requests:
            grant.request_ids.append(request.request_id)
        return grant
