"""No disaggregation: requests are routed at once, and each instance mixes phases on its own.

With SEPARATE batching an instance is vLLM's scheduler before version 0.8 (prefill first), with
CHUNKED it is Sarathi-Serve's (arXiv 2403.02310: every decode, then chunks up to a token budget).
Routing is by turns, or to the shortest queue.
"""

from __future__ import annotations

from enum import Enum

from rondo.policy import events
from rondo.policy.changes import Changes
from rondo.policy.macro import MacroState, QueueSettings
from rondo.policy.view import InstanceView
from rondo.types import Batching, RequestInfo


class Routing(str, Enum):
    """How a request finds its instance.

    ROUND_ROBIN: by turns. SHORTEST_QUEUE: where the fewest requests are, whatever their phase.
    LEAST_WORK: where the fewest prompt tokens wait, then the fewest requests.
    """

    ROUND_ROBIN = "rr"
    SHORTEST_QUEUE = "jsq"
    LEAST_WORK = "work"


class NodgScheduler(MacroState):
    """Implements MacroScheduler."""

    def __init__(self, *, queue: QueueSettings, routing: Routing, batching: Batching) -> None:
        super().__init__(queue)
        self._routing = routing
        self._batching = batching
        self._last_rank = -1

    def _arrived(self, request: RequestInfo, at_s: float) -> None:
        views = [view for view in self.views.values() if self.fits(view, request)]
        if views:
            self._admit(self._choose(views), request, at_s)

    def _changed(self, view: InstanceView, changes: Changes, at_s: float) -> None:
        if lost := view.grants.resend(at_s):
            self.send_turn(view, lost, True, self._batching)
        if view.carry:
            left = list(view.carry)
            opens = view.grant(list(view.carry.values()), at_s)
            self.send_turn(view, left, opens, self._batching)
        for request in list(self.pending):  # came before any instance that holds them
            if self.fits(view, request):
                self._admit(view, request, at_s)

    def _choose(self, views: list[InstanceView]) -> InstanceView:
        match self._routing:
            case Routing.ROUND_ROBIN:
                return next((v for v in views if v.rank > self._last_rank), views[0])
            case Routing.SHORTEST_QUEUE:
                return min(views, key=lambda view: view.num_requests)
            case Routing.LEAST_WORK:
                return min(views, key=lambda view: (view.outstanding_tokens, view.num_requests))

    def _admit(self, view: InstanceView, request: RequestInfo, at_s: float) -> None:
        self._last_rank = view.rank
        cost_s = view.forecast(self._batching).cost_with_s(request.prompt_tokens)
        wait_s = at_s - request.arrival_s + view.switch_wait_s() + cost_s
        opens = view.grant([request], at_s)
        num = view.num_requests
        tokens = view.context_tokens() + request.prompt_tokens
        self.place(
            events.Admit(
                request_id=request.request_id,
                instance_id=view.info.instance_id,
                turn=view.turn,
                predicted_ttft_s=wait_s,
                predicted_tpot_s=view.latency.step_s(0, 0, num, tokens),
                reasons=(f"{view.info.instance_id}: {self._routing.value}, {num} there",),
            )
        )
        self.send_turn(view, (request.request_id,), opens, self._batching)
