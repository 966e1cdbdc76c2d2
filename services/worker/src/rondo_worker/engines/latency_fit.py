"""Fits the closed form of `LatencyProfile` to measured step times.

Decodes are fitted first, for their KV term is part of a fused step, too. Prefills and fused steps
then give the floor, the line above it and the attention term together: each way to cut the steps
in two by their size is tried, and the one whose formula comes closest is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from rondo.perf.profile import LatencyProfile
from rondo.policy.plan import StepPlan
from rondo_worker.engines.base import EngineSpec
from rondo_worker.engines.least_squares import fit_non_negative

#: Prompt tokens, their pairs, sequences that decode, their cached tokens: what `step_s` takes.
StepSize = tuple[int, int, int, int]
Take = Callable[[Iterable[float]], float]

#: The line needs steps of so many sizes, or it says nothing about larger ones.
MIN_LINE_SIZES = 3
KINDS = ("prefill", "decode", "fused")


@dataclass(slots=True)
class Samples:
    """Durations of steps in seconds, by what was computed."""

    times_s: dict[StepSize, list[float]] = field(default_factory=dict)

    def add(self, plan: StepPlan, duration_s: float) -> None:
        """Records one step."""
        size = (plan.prompt_tokens, plan.pairs, plan.num_decodes, plan.context_tokens)
        self.times_s.setdefault(size, []).append(duration_s)

    def of(self, kind: str, take: Take = median) -> dict[StepSize, float]:
        """Sizes of the steps of one of `KINDS`; what `take` makes of the equal ones, in seconds."""
        return {
            size: take(times_s) for size, times_s in self.times_s.items() if _kind(size) == kind
        }


def fit_profile(spec: EngineSpec, samples: Samples, take: Take = median) -> LatencyProfile:
    """The profile that comes closest to the samples, in relative terms.

    Args:
        spec: names the model and the pool. samples: prefills and decodes at least.
        take: makes one figure of equal steps: their median, or on a machine that others use, too,
            their minimum.
    """
    decodes = samples.of("decode", take)
    rows = [(1.0, float(b), float(context)) for _, _, b, context in decodes]
    d0, d1, d2 = fit_non_negative(rows, [time_s * 1e3 for time_s in decodes.values()])
    prompts = {**samples.of("prefill", take), **samples.of("fused", take)}
    steps = [
        (tokens + b, pairs, max(time_s * 1e3 - d2 * context, 0.1 * time_s * 1e3))
        for (tokens, pairs, b, context), time_s in prompts.items()
    ]
    floor, line, pairs_ms = _fit_prompts(sorted(steps))
    return LatencyProfile(
        name=spec.model,
        source=f"calibrated on a live {spec.engine} engine",
        prefill_floor_ms=floor,
        prefill_line_ms=line,
        prefill_attn_ms=(0.0, 0.0, pairs_ms),  # a0, a1 cannot be told from l0, l1
        decode_ms=(d0, d1, d2),
        block_size=spec.block_size,
        num_blocks=spec.num_blocks,
    )


def fit_errors(
    profile: LatencyProfile, samples: Samples, take: Take = median
) -> dict[str, list[float]]:
    """|predicted - measured| / measured, one value a size, by the kinds that were measured."""
    found = {kind: samples.of(kind, take).items() for kind in KINDS}
    return {
        kind: [abs(profile.step_s(*size) - time_s) / time_s for size, time_s in measured]
        for kind, measured in found.items()
        if measured
    }


Pair = tuple[float, float]
Step = tuple[int, int, float]  # rows, pairs, ms


def _fit_prompts(steps: Sequence[Step]) -> tuple[Pair, Pair, float]:
    """(f0, f1), (l0, l1) and a2 in ms, of steps in order of their rows."""
    best = _fit_cut(steps, 0)
    least = _error(steps, *best)
    for cut in range(1, len(steps)):
        if steps[cut][0] == steps[cut - 1][0]:
            continue
        if len({rows for rows, _, _ in steps[cut:]}) < MIN_LINE_SIZES:
            break
        found = _fit_cut(steps, cut)
        if found[1][1] > found[0][1] and (error := _error(steps, *found)) < least:
            best, least = found, error
    return best


def _fit_cut(steps: Sequence[Step], cut: int) -> tuple[Pair, Pair, float]:
    """A floor through the first `cut` steps and a line through the others, attention in common.

    Without steps below the cut, the floor is the shortest step.
    """
    features = [
        (1.0, rows, 0.0, 0.0, pairs) if i < cut else (0.0, 0.0, 1.0, rows, pairs)
        for i, (rows, pairs, _) in enumerate(steps)
    ]
    times_ms = [time_ms for _, _, time_ms in steps]
    f0, f1, l0, l1, a2 = fit_non_negative(features, times_ms)
    return (f0, f1) if cut else (min(times_ms), 0.0), (l0, l1), a2


def _error(steps: Sequence[Step], floor: Pair, line: Pair, pairs_ms: float) -> float:
    """Sum of squared relative errors of the formula as it is used: with the larger of the two."""
    return sum(
        ((max(floor[0] + floor[1] * n, line[0] + line[1] * n) + pairs_ms * p) / time_ms - 1.0) ** 2
        for n, p, time_ms in steps
    )


def _kind(size: StepSize) -> str:
    tokens, _, num_decodes, _ = size
    return "fused" if tokens and num_decodes else "prefill" if tokens else "decode"
