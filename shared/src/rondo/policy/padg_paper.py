"""EcoServe's macro-instance scheduler as the paper has it (arXiv 2504.18154, algorithm 1).

Mean slack, separate prefill steps, first come first served among the pending, no shedding, no
bound on a turn once its prompts are handed over. Its knobs are those of the ablations.
"""

from __future__ import annotations

from typing import Literal
from zlib import crc32

import msgspec

from rondo.policy import admission
from rondo.policy.admission import Failed, Verdict
from rondo.policy.events import InstanceInfo
from rondo.policy.macro import QueueSettings
from rondo.policy.rolling import RollingScheduler
from rondo.policy.view import InstanceView
from rondo.types import Batching, BatchKind, RequestInfo


class PaperSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The paper's policy, and the variants it is compared with.

    slack_quantile: of the saved TPOT; None is the mean. order: the ring, or any instance (by a hash
    of the request's id). interval_share: route to the next instance every so many TTFT limits,
    whatever the checks say; None adapts. fused_tokens: chunk of fused turns; 0 is the paper's
    separate prefill.
    """

    slack_quantile: float | None = None
    order: Literal["cyclic", "random"] = "cyclic"
    interval_share: float | None = None
    fused_tokens: int = 0


class PaperPadgScheduler(RollingScheduler):
    """Implements MacroScheduler."""

    def __init__(self, *, queue: QueueSettings, settings: PaperSettings) -> None:
        super().__init__(queue)
        self._settings = settings
        fused = Batching(kind=BatchKind.FUSED, tokens=settings.fused_tokens)
        self._turn_batching = fused if settings.fused_tokens else Batching()

    def _new_view(self, info: InstanceInfo, rank: int) -> InstanceView:
        return InstanceView(info, rank, counts_turns=True)

    def _check(self, view: InstanceView, request: RequestInfo, at_s: float) -> Verdict:
        if self._settings.interval_share is not None:
            return self._check_interval(view, request, at_s, self._settings.interval_share)
        return admission.paper_check(view, request, at_s, self._settings.slack_quantile)

    def _check_interval(
        self, view: InstanceView, request: RequestInfo, at_s: float, share: float
    ) -> Verdict:
        """Whether it is the instance's turn by the clock; only memory is checked."""
        views = list(self.views.values())
        number = int(at_s / (share * request.slo.ttft_s)) % len(views)
        if views[number] is not view:
            return Verdict(Failed.BUSY, 0.0, "not its interval")
        needed = view.blocks.needed() + view.blocks.final(request)
        turn_s = view.handed.cost_with_s(request.prompt_tokens)
        return admission.with_memory(view, needed, view.switch_wait_s() + turn_s, turn_s)

    def _order(self, request: RequestInfo) -> list[InstanceView]:
        views = list(super()._order(request))
        if self._settings.order == "random" and views:
            start = crc32(request.request_id.encode()) % len(views)
            views = views[start:] + views[:start]
        return views

    def _batching(self, view: InstanceView, at_s: float) -> Batching:
        return self._turn_batching
