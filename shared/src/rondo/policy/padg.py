"""Rondo's macro-instance scheduler: rolling activation with prefill steps sized by the SLO.

After EcoServe (arXiv 2504.18154), and beyond it where that measured better (docs/policies.md):

* Prompts are prefilled in fused steps, a chunk of prompt beside every request that decodes, and a
  step takes no longer than the tightest TPOT limit. So no request is ever paused for another's
  prompt; an instance where nothing decodes prefills whole prompts.
* Where a fused step has a fixed cost (`step_size`), an instance takes prompts in groups: several
  plain decode steps save the TPOT that the longer step spends.
* Requests wait in one queue, the one that has to start first in front, and go to an instance whose
  next step takes prompts anyway, else to the one with the least prefill before it; never to one
  that has more than two steps or `horizon_s` of prefill before it.
* A request that cannot meet its TTFT limit any more, or would not by the time its turn came, is
  refused at once with the time after which the queue will be short enough. One that even an idle
  instance would miss when it came, as after an outage, is served late instead.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from rondo.errors import ConfigError
from rondo.policy import admission
from rondo.policy.admission import Failed, Verdict
from rondo.policy.changes import Changes
from rondo.policy.drain import DrainRate
from rondo.policy.events import Admit
from rondo.policy.load_order import LoadOrder
from rondo.policy.macro import QueueSettings
from rondo.policy.rolling import RollingScheduler
from rondo.policy.step_size import StepSize, size_step
from rondo.policy.view import InstanceView
from rondo.types import Batching, RequestInfo

#: When the first of the queue has less than this share of its TTFT limit left, a step need not be
#: worth its cost.
PRESSED_SHARE = 0.5
#: A prompt alone goes in as a whole.
WHOLE = Batching()
#: Where steps are bounded, an instance takes prompts for so many of them ahead: the next, and one
#: more, so that it goes on while its report and the answer to it are under way.
STEPS_AHEAD = 2
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
    further request. shed: refuse early what will not be served in time. length_classes: so many
    classes of predicted answer length have instances of their own (`padg_lengths`); below 2: none.
    """

    tpot_share: float = 0.99
    horizon_s: float = 0.5
    shed: bool = True
    length_classes: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.tpot_share <= 1:
            raise ConfigError("tpot_share", f"{self.tpot_share} is not above 0 and at most 1")
        if not self.horizon_s > 0:
            raise ConfigError("horizon_s", f"{self.horizon_s} is not above 0")
        if self.length_classes < 0:
            raise ConfigError("length_classes", f"{self.length_classes} is below 0")


class PadgScheduler(RollingScheduler):
    """Implements MacroScheduler."""

    def __init__(
        self, *, settings: PadgSettings | None = None, queue: QueueSettings | None = None
    ) -> None:
        super().__init__(queue or QueueSettings())
        self.settings = settings or PadgSettings()
        self._drain = DrainRate()
        self._loads = LoadOrder()

    # Hooks

    def _arrived(self, request: RequestInfo, at_s: float) -> None:
        if self.pending.rank_of(request.request_id) < at_s:  # nobody decided for so long
            self.pending.rerank(request.request_id, _late_rank(request))
        super()._arrived(request, at_s)
        if self.pending.num and self.settings.shed and self.views:
            self._refuse_if_hopeless(request, at_s)
        self._drain.watch(at_s, waiting=self.pending.num > 0)

    def _changed(self, view: InstanceView, changes: Changes, at_s: float) -> None:
        super()._changed(view, changes, at_s)
        self._loads.settle(view)  # now: who asks for the order next is a request that waits
        self._drain.watch(at_s, waiting=self.pending.num > 0)

    def place(self, admit: Admit) -> None:
        """As MacroState.place, and notes how fast the queue is worked off."""
        if self.pending.num > 1 or admit.reasons[0].startswith("was pending"):
            self._drain.admitted(self.pending.work_of(admit.request_id), len(self.views))
        super().place(admit)

    def retry_after_s(self) -> float:
        """Predicted time until what is pending is admitted."""
        return max(1.0, self._drain.wait_s(self.pending.work_s, len(self.views)))

    # Which instance

    def _order(self, request: RequestInfo) -> Iterable[InstanceView]:
        return self._loads.offer(request.prompt_tokens)

    def send_turn(
        self, view: InstanceView, request_ids: Iterable[str], opens: bool, batching: Batching
    ) -> None:
        """As MacroState.send_turn."""
        super().send_turn(view, request_ids, opens, batching)
        self._loads.touch(view)

    def _leave(self, instance_id: str) -> None:
        if view := self.views.get(instance_id):
            self._loads.drop(view)
        super()._leave(instance_id)

    def _check(self, view: InstanceView, request: RequestInfo, at_s: float) -> Verdict:
        if view.outstanding:
            queued_s = view.forecast(view.batching).cost_s()
            if queued_s > self.settings.horizon_s:
                return Verdict(Failed.BUSY, 0.0, f"{queued_s:.3f} s of prompts before it")
        batching = WHOLE
        if view.outstanding or view.running.num or view.fresh:
            size = size_step(view, request, self.settings.tpot_share, at_s)
            if size.tokens == 0 and size.num_riders:
                full = f"{size.num_riders} decodes leave no time for a prompt"
                return Verdict(Failed.TPOT, 0.0, full)
            if why := self._better_later(view, size, at_s):
                return Verdict(Failed.BUSY, 0.0, why)
            batching = size.batching
        turn_s = view.forecast(batching).cost_with_s(request.prompt_tokens)
        ttft_s = at_s - request.arrival_s + view.switch_wait_s() + turn_s
        if ttft_s > request.slo.ttft_s and not self._is_late(request):
            return Verdict(Failed.TTFT, ttft_s, f"decode would start {ttft_s:.3f} s after arrival")
        needed = view.blocks.needed() + view.blocks.final(request)
        return admission.with_memory(view, needed, ttft_s, turn_s, batching)

    def _better_later(self, view: InstanceView, size: StepSize, at_s: float) -> str | None:
        """Prompts wait in the queue, not at an instance; where fusing has a price, also until the
        instance can afford a step that is worth it."""
        if view.outstanding:
            # A group ends with its step: the next one has to be saved for.
            steps, waiting = 1 if size.enough else STEPS_AHEAD, view.waiting.tokens
            full = size.num_riders and waiting >= steps * size.tokens
            return f"{waiting} tokens fill its next steps" if full else None
        if not size.enough:
            return None
        if size.tokens >= size.enough or self._pressed(at_s):
            return None
        return f"a step of {size.tokens} tokens is not worth its cost yet, {size.enough} would be"

    def _pressed(self, at_s: float) -> bool:
        """Whether the first of the queue has little time left to start."""
        for first in self.pending.first(1):
            left_s = self.pending.rank_of(first.request_id) - at_s
            return left_s < PRESSED_SHARE * first.slo.ttft_s
        return False

    # Which step

    def _batching(self, view: InstanceView, at_s: float) -> Batching:
        if not view.num_riders and len(view.outstanding) <= 1:
            return WHOLE
        return size_step(view, None, self.settings.tpot_share, at_s).batching

    # Which requests not

    def _rank(self, request: RequestInfo, alone_s: float) -> float:
        if alone_s == 0 or alone_s > request.slo.ttft_s:  # 0: no instance is there
            return _late_rank(request)
        return request.arrival_s + request.slo.ttft_s - alone_s

    def _is_late(self, request: RequestInfo) -> bool:
        """Whether an idle instance would have missed its TTFT limit when it came, or none was
        there: it is served all the same."""
        limit_s = request.arrival_s + request.slo.ttft_s
        return self.pending.rank_of(request.request_id) > limit_s

    def _refuse_if_hopeless(self, request: RequestInfo, at_s: float) -> None:
        """Refuses a newcomer that was not admitted and would reach an instance too late."""
        if request.request_id not in self.pending:
            return
        work_s = self.pending.work_before(request.request_id)
        wait_s = self._drain.wait_s(work_s, len(self.views))
        left_s = self.pending.rank_of(request.request_id) - at_s
        late_s = wait_s - PATIENCE * left_s
        if late_s > 0 and not self._is_late(request):
            detail = f"about {wait_s:.2f} s to wait, it has {max(0.0, left_s):.2f} s for that"
            self.refuse(request, "overloaded", detail, max(1.0, late_s))

    def _expire(self, at_s: float) -> None:
        super()._expire(at_s)
        if self.pending.least_rank() > at_s or not self.settings.shed or not self.views:
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


def _late_rank(request: RequestInfo) -> float:
    return request.arrival_s + LATE_FACTOR * request.slo.ttft_s
