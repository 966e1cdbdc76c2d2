"""The rate at which a policy's mean normalized latency reaches a level, each tuned to its best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from rondo.policy.econoserve import EconoSettings
from rondo.types import Batching, BatchKind
from rondo_bench.econoserve.simulated import (
    RunFigures,
    Setup,
    at_rate,
    latency_model,
    saturated,
)
from rondo_bench.econoserve.workloads import Lengths

#: Policies under their names of the command. `chunked` is block growth in chunked batches.
POLICIES = ("econoserve", "exact", "block-growth", "chunked", "max-length", "shortest-first")
#: Resolution of a search whose rate is reported, and of one that only tunes.
FINE, TUNING = 1.015, 1.04
#: Searches begin at this share of what block growth serves when saturated, and end at that.
START_SHARE, MOST_SHARE = 0.6, 4.0
#: Where the first rate is above the level, those down to this share of it are tried.
LEAST_SHARE = 0.02
#: Ratio of neighbouring rates before the bisection.
COARSE_RATIO = 1.2
BUDGETS = (128, 256, 512)
SEPARATE = Batching()
#: Shortest first and EconoServe see to it that nobody waits for ever; a rival need not.
NO_ELDERS = EconoSettings(elder_every=10**9)


def candidates(policy: str) -> list[Setup]:
    """What a policy is tried with."""
    chunked = [Batching(kind=BatchKind.CHUNKED, tokens=tokens) for tokens in BUDGETS]
    if policy == "block-growth":
        return [Setup(policy, each) for each in (*chunked, SEPARATE)]
    if policy == "chunked":
        return [Setup("block-growth", each) for each in chunked]
    if policy == "shortest-first":
        return [Setup(policy, each, econo=NO_ELDERS) for each in (*chunked, SEPARATE)]
    return [Setup(policy, each) for each in chunked[:2]]


@dataclass(slots=True)
class Trials:
    """Runs of one setup on one workload, one for each draw and rate; done once and kept."""

    setup: Setup
    draws: Sequence[Lengths]
    runs: dict[tuple[int, float], RunFigures] = field(default_factory=dict)

    def at(self, rate: float) -> RunFigures:
        """The mean over the seeds."""
        return mean_of(self._runs(rate))

    def rate_at(self, level_s: float, capacity: float, fine: float = FINE) -> float:
        """The rate up to which the mean normalized latency is at most `level_s`.

        Rates from `START_SHARE` of `capacity` upward are tried until one is above the level, lower
        ones where already the first is. 0: none was at the level; `MOST_SHARE` of the capacity: all
        were, which a run of finite length can be in any overload.
        """
        low, high = self._bracket(level_s, START_SHARE * capacity, MOST_SHARE * capacity)
        while low and high / low > fine:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self._passes(middle, level_s) else (low, middle)
        return low

    def _bracket(self, level_s: float, start: float, most: float) -> tuple[float, float]:
        """A rate that passes, 0 for none, and a higher one that does not, or the limit twice."""
        if not self._passes(start, level_s):
            high = start
            while high > LEAST_SHARE * start:
                low = high / COARSE_RATIO
                if self._passes(low, level_s):
                    return low, high
                high = low
            return 0.0, high
        low = start
        while low < most:
            high = min(most, low * COARSE_RATIO)
            if not self._passes(high, level_s):
                return low, high
            low = high
        return most, most

    def _passes(self, rate: float, level_s: float) -> bool:
        return self.at(rate).normalized_latency_s <= level_s

    def saturated(self) -> RunFigures:
        """The mean over the seeds of runs with a backlog."""
        latency = latency_model()
        return mean_of([saturated(self.setup, lengths, latency) for lengths in self.draws])

    def _runs(self, rate: float) -> list[RunFigures]:
        latency = latency_model()
        for number, lengths in enumerate(self.draws):
            if (number, rate) not in self.runs:
                self.runs[number, rate] = at_rate(self.setup, lengths, rate, latency)
        return [self.runs[number, rate] for number in range(len(self.draws))]


def mean_of(runs: Sequence[RunFigures]) -> RunFigures:
    """Each figure's mean."""
    names = RunFigures.__struct_fields__
    return msgspec.convert(
        {name: sum(getattr(run, name) for run in runs) / len(runs) for name in names}, RunFigures
    )


def tune(
    setups: Sequence[Setup], draws: Sequence[Lengths], level_s: float, capacity: float
) -> Trials:
    """The setup that reaches the level at the highest rate, on the first draw of the workload; for
    all draws, with what was run.

    One that is above the level at the best rate so far cannot be better and is searched no further.
    """
    best, best_rate = Trials(setups[0], draws[:1]), 0.0
    for setup in setups:
        trials = Trials(setup, draws[:1])
        if best_rate and trials.at(best_rate).normalized_latency_s > level_s:
            continue
        rate = trials.rate_at(level_s, capacity, TUNING)
        if rate > best_rate:
            best, best_rate = trials, rate
    return Trials(best.setup, draws, best.runs)
