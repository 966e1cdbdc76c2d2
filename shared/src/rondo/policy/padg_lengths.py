"""`padg` with instances that specialise by predicted answer length; off unless asked for.

EconoServe's groups of equal length (arXiv 2411.06364, section 3), across the instances of a
macro-instance. It adds nothing to goodput; the figures are in docs/results/sim.md, and why is in
docs/policies.md.

Nobody waits for an instance of its class: a newcomer goes to one of those that can take it, else to
any other, and an instance that has room is offered the pending requests of its class before the
others, but none before one that is pressed.
"""

from __future__ import annotations

from collections.abc import Iterable

from rondo.policy.length_classes import LengthClasses, added_work_s
from rondo.policy.macro import QueueSettings
from rondo.policy.padg import PRESSED_SHARE, PadgScheduler, PadgSettings
from rondo.policy.view import InstanceView
from rondo.types import RequestInfo


class LengthPadgScheduler(PadgScheduler):
    """Implements MacroScheduler; `PadgSettings.length_classes` says how many classes."""

    def __init__(
        self, *, settings: PadgSettings | None = None, queue: QueueSettings | None = None
    ) -> None:
        super().__init__(settings=settings, queue=queue)
        self._classes = LengthClasses(self.settings.length_classes)

    def _arrived(self, request: RequestInfo, at_s: float) -> None:
        if view := next(iter(self.views.values()), None):
            answer_tokens = _answer_tokens(request)
            work_s = added_work_s(view.latency, request.prompt_tokens, answer_tokens)
            self._classes.see(answer_tokens, work_s)
        super()._arrived(request, at_s)

    def _order(self, request: RequestInfo) -> Iterable[InstanceView]:
        share, offered = self._share(request), super()._order(request)
        if len(share) == len(self.views):
            return offered
        places = {view.rank: place for place, view in enumerate(self.views.values())}
        return sorted(offered, key=lambda view: places[view.rank] not in share)

    def _try_pending(
        self, view: InstanceView, requests: Iterable[RequestInfo], at_s: float
    ) -> None:
        place = list(self.views).index(view.info.instance_id)

        def order(request: RequestInfo) -> int:
            left_s = self.pending.rank_of(request.request_id) - at_s
            if left_s < PRESSED_SHARE * request.slo.ttft_s:
                return 0
            return 1 if place in self._share(request) else 2

        super()._try_pending(view, sorted(requests, key=order), at_s)

    def _share(self, request: RequestInfo) -> range:
        return self._classes.share(_answer_tokens(request), len(self.views))


def _answer_tokens(request: RequestInfo) -> int:
    return max(1, min(request.predicted_tokens, request.max_tokens))
