"""At which rates to measure: from the engine's latency profile, in virtual time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rondo_bench.econoserve.real_run import run_simulated, saturated
from rondo_bench.econoserve.real_setup import Bed, RealOptions
from rondo_bench.econoserve.simulated import Setup, figures_of, saturated_figures

#: Policies are compared where a token takes so many times as long, in the mean, as the decode step
#: of a request that is alone, with so many tokens before it: well beyond the bend of the curve of
#: first come, first served.
LEVEL = 3.5
ALONE_TOKENS = 64
#: Answers of the simulated saturated run.
SATURATED = 300
#: Answers of a measured one at least: fewer say nothing.
FEWEST = 40
#: Halvings of the interval in which a rate is sought, and the rates over the saturated one at its
#: ends: a policy that serves short answers first can meet the level above what it can sustain.
#: What is measured corrects what is found.
HALVINGS = 7
WITHIN = (0.1, 4.0)
#: The slope is that between the rate over and times this, kept within bounds: with few requests a
#: curve may be flat or a step, and a measured rate is moved by no more than noise then.
ASIDE = 1.2
SLOPES = (1.0, 8.0)
#: Rounds whose arrivals are simulated.
SEEDS = 2
#: First come, first served: what the others are compared with.
BASE = ("block-growth", "chunked")


@dataclass(frozen=True, slots=True)
class Guess:
    """Where a policy is expected at the level of latency: the rate in requests/s, and how many
    times as fast as the rate the latency rises there, both in logarithms."""

    rate: float
    slope: float

    def moved(self, level_s: float, rate: float, latency_s: float) -> float:
        """The rate at the level, from a latency that was measured near it: along the slope."""
        return rate * math.exp(math.log(level_s / latency_s) / self.slope)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure: answers of a saturated run, the level of mean normalized latency in seconds,
    and where each policy is expected."""

    num_saturated: int
    level_s: float
    guesses: dict[str, Guess]


def make_plan(bed: Bed, options: RealOptions, names: Sequence[str]) -> Plan:
    """Simulates; the level is `LEVEL` times the latency of a request alone."""
    sustained = (_sustained(bed, options.setup(name), options.seed) for name in BASE)
    most = max(sustained)
    run_s = options.run_s[bed.name]
    level_s = LEVEL * bed.profile.step_s(0, 0, 1, ALONE_TOKENS)

    def guess(name: str) -> Guess:
        setup, seeds = options.setup(name), options.seeds()[:SEEDS]

        def latency_s(rate: float) -> float:
            return mean_latency_s(bed, setup, seeds, rate, run_s)

        rate = rate_at(level_s, latency_s, most)
        return Guess(rate, slope_at(rate, latency_s))

    guesses = {name: guess(name) for name in names}
    return Plan(max(FEWEST, round(most * options.saturated_s[bed.name])), level_s, guesses)


def mean_latency_s(
    bed: Bed, setup: Setup, seeds: Sequence[int], rate: float, run_s: float
) -> float:
    """Median over the seeds of the mean normalized latency that the profile promises."""
    runs = (run_simulated(bed, setup, bed.offered(seed, rate, run_s)) for seed in seeds)
    return statistics.median(figures_of(run).normalized_latency_s for run in runs)


def rate_at(level_s: float, latency_s: Callable[[float], float], near: float) -> float:
    """The rate at which the latency, which rises with it, reaches the level."""
    low, high = (near * factor for factor in WITHIN)
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        if latency_s(middle) < level_s:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


def slope_at(rate: float, latency_s: Callable[[float], float]) -> float:
    """How many times as fast the latency rises as the rate, in logarithms; see `SLOPES`."""
    low_s, high_s = latency_s(rate / ASIDE), latency_s(rate * ASIDE)
    least, most = SLOPES
    return min(most, max(least, math.log(high_s / low_s) / math.log(ASIDE**2)))


def _sustained(bed: Bed, setup: Setup, seed: int) -> float:
    run = saturated(bed, setup, seed, SATURATED, real=False)
    return saturated_figures(run).requests_per_s
