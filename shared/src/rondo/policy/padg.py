"""Rondo's macro-instance scheduler: rolling activation with prefill steps sized by the SLO.

After EcoServe (arXiv 2504.18154), and beyond it where that measured better (docs/policies.md):

* Prompts are prefilled in fused steps, a chunk of prompt beside every request that decodes, and a
  step takes no longer than the tightest TPOT limit. So no request is ever paused for another's
  prompt; an instance where nothing decodes prefills whole prompts.
* Requests wait in one queue, the one that has to start first in front, and go to the instance with
  the least prefill before it, once that is less than `horizon_s`.
* A request that cannot meet its TTFT limit any more, or would not by the time its turn came, is
  refused at once with the time after which the queue will be short enough. One that even an idle
  instance would miss is served late instead.
"""

from __future__ import annotations

import msgspec

from rondo.errors import ConfigError
from rondo.policy import admission
from rondo.policy.admission import Failed, Verdict
from rondo.policy.changes import Changes
from rondo.policy.drain import DrainRate
from rondo.policy.events import Admit
from rondo.policy.macro import QueueSettings
from rondo.policy.rolling import RollingScheduler
from rondo.policy.view import InstanceView
from rondo.types import Batching, BatchKind, RequestInfo

#: Chunks are multiples of this.
CHUNK_TOKENS = 16
#: When the first of the queue has less than this share of its TTFT limit left, steps may spend the
#: saved TPOT that all but `SLACK_QUANTILE` of the requests have, over `SPREAD_STEPS` steps.
PRESSED_SHARE = 0.5
SLACK_QUANTILE = 0.1
SPREAD_STEPS = 32
#: Pending requests looked at for a start that is too late already; the first have to start first.
OVERDUE_TRIES = 32
#: A newcomer is refused when its predicted wait is more than this share of what it can wait.
PATIENCE = 0.9
#: A request that even an idle instance would miss waits behind those that have this many of its
#: TTFT limits left, and so moves to the front as it ages.
LATE_FACTOR = 2.0


class PadgSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Knobs; the defaults are what measured best (docs/policies.md).

    tpot_share: share of the tightest TPOT limit that a fused step is planned to take; what is left
    covers prediction errors. horizon_s: an instance with more prefill than this before it takes no
    further request. shed: refuse early what will not be served in time.
    """

    tpot_share: float = 0.99
    horizon_s: float = 0.5
    shed: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.tpot_share <= 1:
            raise ConfigError("tpot_share", f"{self.tpot_share} is not above 0 and at most 1")
        if not self.horizon_s > 0:
            raise ConfigError("horizon_s", f"{self.horizon_s} is not above 0")


class PadgScheduler(RollingScheduler):
    """Implements MacroScheduler."""

    def __init__(
        self, *, settings: PadgSettings | None = None, queue: QueueSettings | None = None
    ) -> None:
        super().__init__(queue or QueueSettings())
        self.settings = settings or PadgSettings()
        self._drain = DrainRate()

    # Hooks

    def _arrived(self, request: RequestInfo, at_s: float) -> None:
        super()._arrived(request, at_s)
        if self.settings.shed and request.request_id in self.pending and self.views:
            self._refuse_if_hopeless(request, at_s)
        self._watch(at_s)

    def _changed(self, view: InstanceView, changes: Changes, at_s: float) -> None:
        super()._changed(view, changes, at_s)
        self._watch(at_s)

    def place(self, admit: Admit) -> None:
        """As MacroState.place, and notes how fast the queue is worked off."""
        if len(self.pending) > 1 or admit.reasons[0].startswith("was pending"):
            self._drain.admitted(self.pending.work_of(admit.request_id), len(self.views))
        super().place(admit)

    def retry_after_s(self) -> float:
        """Predicted time until what is pending is admitted."""
        return max(1.0, self._drain.wait_s(self.pending.work_s, len(self.views)))

    # Which instance

    def _order(self, request: RequestInfo) -> list[InstanceView]:
        return sorted(self.views.values(), key=_load)

    def _check(self, view: InstanceView, request: RequestInfo, at_s: float) -> Verdict:
        if view.outstanding:
            queued_s = view.forecast(view.batching).cost_s()
            if queued_s > self.settings.horizon_s:
                return Verdict(Failed.BUSY, 0.0, f"{queued_s:.3f} s of prompts before it")
        batching = self._sized(view, request, at_s)
        num_riders = len(view.running) + len(view.fresh)
        if batching.tokens <= num_riders and num_riders:
            return Verdict(Failed.TPOT, 0.0, f"{num_riders} decodes leave no time for a prompt")
        forecast = view.forecast(batching)
        turn_s = forecast.cost_with_s(request.prompt_tokens)
        ttft_s = at_s - request.arrival_s + view.switch_wait_s() + turn_s
        if ttft_s > request.slo.ttft_s and not self._is_late(request):
            return Verdict(Failed.TTFT, ttft_s, f"decode would start {ttft_s:.3f} s after arrival")
        needed = view.blocks.needed() + view.blocks.final(request)
        return admission.with_memory(view, needed, ttft_s, turn_s)

    # Which step

    def _batching(self, view: InstanceView, at_s: float) -> Batching:
        return self._sized(view, None, at_s)

    def _sized(self, view: InstanceView, request: RequestInfo | None, at_s: float) -> Batching:
        """The largest step that the TPOT limits of all concerned allow, with `request` or without.

        A lone prompt goes in whole. The budget counts decodes too, so it goes on to hold when
        requests begin or end to decode.
        """
        num_riders = len(view.running) + len(view.fresh)
        num_prompts = len(view.outstanding) + (request is not None)
        if not num_riders and num_prompts <= 1:
            return Batching()
        longest, limit_s = view.tightest()
        if request is not None:
            longest = max(longest, request.prompt_tokens)
            limit_s = min(limit_s, view.feasible_tpot_s(request))
        limit_s *= self.settings.tpot_share
        if self._pressed(at_s):
            saved_s = view.running.slack.quantile_s(SLACK_QUANTILE, view.decode_steps, at_s)
            if 0 < saved_s < float("inf"):
                limit_s += saved_s / SPREAD_STEPS
        tokens = self._chunk_tokens(view, longest, num_riders, limit_s)
        return Batching(kind=BatchKind.CHUNKED, tokens=tokens + num_riders)

    def _pressed(self, at_s: float) -> bool:
        """Whether the first of the queue has little time left to start."""
        for first in self.pending.first(1):
            left_s = self.pending.rank_of(first.request_id) - at_s
            return left_s < PRESSED_SHARE * first.slo.ttft_s
        return False

    @staticmethod
    def _chunk_tokens(view: InstanceView, longest: int, num_riders: int, limit_s: float) -> int:
        """The most prompt tokens, of prompts up to `longest`, in a step of `limit_s`."""
        step_s, context = view.latency.step_s, view.context_tokens()
        low, high = 0, max(1, view.info.max_prefill_tokens // CHUNK_TOKENS)
        while low < high:
            middle = (low + high + 1) // 2
            tokens = middle * CHUNK_TOKENS
            # Twice the pairs of a chunk at a prompt's end bound those of any chunk of it.
            if step_s(tokens, 2 * tokens * longest, num_riders, context) <= limit_s:
                low = middle
            else:
                high = middle - 1
        return low * CHUNK_TOKENS

    # Which requests not

    def _rank(self, request: RequestInfo, alone_s: float) -> float:
        if alone_s > request.slo.ttft_s:
            return request.arrival_s + LATE_FACTOR * request.slo.ttft_s
        return request.arrival_s + request.slo.ttft_s - alone_s

    def _is_late(self, request: RequestInfo) -> bool:
        """Whether even an idle instance would have missed its TTFT limit, or none was there."""
        alone_s = self.pending.work_of(request.request_id)
        return alone_s == 0 or alone_s > request.slo.ttft_s

    def _watch(self, at_s: float) -> None:
        self._drain.watch(at_s, waiting=len(self.pending) > 0)

    def _refuse_if_hopeless(self, request: RequestInfo, at_s: float) -> None:
        """Refuses a newcomer that would reach an instance too late."""
        work_s = self.pending.work_before(request.request_id)
        wait_s = self._drain.wait_s(work_s, len(self.views))
        left_s = self.pending.rank_of(request.request_id) - at_s
        late_s = wait_s - PATIENCE * left_s
        if late_s > 0 and not self._is_late(request):
            detail = f"about {wait_s:.2f} s to wait, it has {max(0.0, left_s):.2f} s for that"
            self.refuse(request, "overloaded", detail, max(1.0, late_s))

    def _expire(self, at_s: float) -> None:
        super()._expire(at_s)
        if not self.settings.shed or not self.views:
            return
        for request in self.pending.first(OVERDUE_TRIES):
            if self.pending.rank_of(request.request_id) > at_s:
                return
            if not self._is_late(request):
                detail = "no instance can meet its TTFT limit any more"
                self.refuse(request, "overloaded", detail, self.retry_after_s())

    def _wake_at_s(self) -> float | None:
        wake_at_s = super()._wake_at_s()
        if wake_at_s is None or not self.settings.shed or not self.views:
            return wake_at_s
        for request in self.pending.first(OVERDUE_TRIES):
            if not self._is_late(request):
                return min(wake_at_s, self.pending.rank_of(request.request_id))
        return wake_at_s


def _load(view: InstanceView) -> tuple[int, int]:
    """Prompt tokens that wait there, then requests."""
    return view.outstanding_tokens, view.num_requests
