"""Online correction of a latency model from the steps that instances report.

A profile was measured on another day, perhaps on another machine. Each kind of step (decodes alone,
prompts alone, both) gets a factor: an exponentially weighted mean of measured over predicted time.
One slow step must not move it, so each ratio counts as at most twice, and at least half, of the
factor so far; the factor stays within `LEAST` and `MOST`. Pure and deterministic: the same steps
give the same factors, so decisions that follow from them can be replayed.
"""

from __future__ import annotations

from math import inf

from rondo.types import LatencyModel, StepStat

#: After so many steps of a kind the past counts half.
HALF_LIFE_STEPS = 32
#: A factor is used from so many steps of its kind on.
WARM_UP_STEPS = 8
LEAST, MOST = 0.25, 4.0
#: How far one step's ratio may be from the factor, as a factor.
CLIP = 2.0

_WEIGHT = 1 - 0.5 ** (1 / HALF_LIFE_STEPS)
DECODE, PREFILL, FUSED = range(3)


class CorrectedModel:
    """A latency model that learns. Implements LatencyModel; `observe` costs about a microsecond."""

    __slots__ = ("_base_s", "_counts", "_errors", "_factors", "_used")

    def __init__(self, base: LatencyModel) -> None:
        self._base_s = base.step_s
        self._counts = [0, 0, 0]
        self._factors = [1.0, 1.0, 1.0]
        self._used = [1.0, 1.0, 1.0]  # 1 until warm
        self._errors = [0.0, 0.0, 0.0]

    def step_s(self, tokens: int, pairs: int, num_decodes: int, context_tokens: int) -> float:
        """Corrected duration of one step, in seconds; see LatencyModel."""
        kind = DECODE if not tokens else (FUSED if num_decodes else PREFILL)
        return self._used[kind] * self._base_s(tokens, pairs, num_decodes, context_tokens)

    def observe(self, step: StepStat) -> None:
        """A step was measured."""
        kind = DECODE
        if step.prompt_tokens:
            kind = FUSED if step.num_decodes else PREFILL
        predicted_s = self._base_s(
            step.prompt_tokens, step.pairs, step.num_decodes, step.context_tokens
        )
        if not (predicted_s > 0 and 0 < step.duration_s < inf):  # nan would stay for ever
            return
        ratio, factor = step.duration_s / predicted_s, self._factors[kind]
        error = abs(self._used[kind] * predicted_s - step.duration_s) / step.duration_s
        self._counts[kind] += 1
        weight = max(_WEIGHT, 1 / self._counts[kind])  # a plain mean at first
        self._errors[kind] += weight * (min(error, 1.0) - self._errors[kind])
        clipped = min(max(ratio, factor / CLIP), factor * CLIP)
        factor += weight * (clipped - factor)
        self._factors[kind] = min(max(factor, LEAST), MOST)
        if self._counts[kind] >= WARM_UP_STEPS:
            self._used[kind] = self._factors[kind]

    def factor(self, kind: int) -> float:
        """What predictions of this kind (DECODE, PREFILL, FUSED) are multiplied with."""
        return self._used[kind]

    def seen(self, kind: int) -> int:
        """Steps of this kind observed so far."""
        return self._counts[kind]

    def error(self, kind: int) -> float:
        """Recent mean of |predicted - measured| / measured for this kind, each at most 1."""
        return self._errors[kind]
