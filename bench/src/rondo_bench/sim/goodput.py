"""Goodput: the highest rate at which enough requests meet their SLO.

Attainment need not fall steadily with the rate (a policy may dip at low load), so the search scans
a coarse geometric grid upward until the cluster is clearly overloaded, refines between the highest
rate that passed and the next one by bisection, and reports every lower rate that failed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rondo.errors import ConfigError

#: Ratio of neighbouring rates of the coarse scan.
COARSE_RATIO = 1.2
#: How fine the bisection is unless told otherwise.
FINE_RATIO = 1.015
#: A rate with less than this share of the target ends the scan: that is overload, not a dip.
LOST_SHARE = 0.9
#: The scan gives up beyond this many rates.
MAX_RATES = 60
#: Where no rate from the start on passes, those down to this fraction of it are tried.
MAX_BELOW = 100

#: Attainment of one run by rate and seed.
Measure = Callable[[float, Sequence[int]], list[float]]


@dataclass(frozen=True, slots=True)
class Point:
    """Attainment at one rate, by seed."""

    rate: float
    by_seed: tuple[float, ...]

    @property
    def attainment(self) -> float:
        """Mean over the seeds."""
        return sum(self.by_seed) / len(self.by_seed)


@dataclass(slots=True)
class Goodput:
    """`rate` is 0 when no rate passed. `low`, `high`: the least and greatest of the seeds' own
    goodputs. `dips`: lower rates that failed."""

    target: float
    rate: float
    low: float
    high: float
    dips: list[float]
    curve: list[Point] = field(default_factory=list)


class GoodputSearch:
    """Searches for several targets over the same measured points.

    Args:
        measure: runs one rate with each of the seeds.
        start: a rate that is probably served; lower ones are tried where it is not.
        fine: the bisection stops when the bracket is narrower than this ratio.
    """

    def __init__(
        self, measure: Measure, start: float, seeds: Sequence[int], fine: float = FINE_RATIO
    ) -> None:
        if start <= 0:
            raise ConfigError("--start", f"{start:g} is not a rate above 0")
        self._measure = measure
        self._start = start
        self._seeds = tuple(seeds)
        self._fine = fine
        self._points: dict[float, Point] = {}

    def find(self, target: float) -> Goodput:
        """The goodput at an attainment target between 0 and 1."""
        low, high = self._bracket(target)
        while low > 0 and high / low > self._fine:
            middle = math.sqrt(low * high)
            if self._point(middle).attainment >= target:
                low = middle
            else:
                high = middle
        curve = sorted(self._points.values(), key=lambda point: point.rate)
        dips = [p.rate for p in curve if p.rate < low and p.attainment < target]
        own = [_interpolated(curve, target, index) for index in range(len(self._seeds))]
        return Goodput(target, low, min(own), max(own), dips, curve)

    def _bracket(self, target: float) -> tuple[float, float]:
        """The highest coarse rate that passed (0: none) and the one after it."""
        rate, best = self._start, 0.0
        for _ in range(MAX_RATES):
            attainment = self._point(rate).attainment
            if attainment >= target:
                best = rate
            if attainment < LOST_SHARE * target:
                break
            rate *= COARSE_RATIO
        return (best, best * COARSE_RATIO) if best else self._below(target)

    def _below(self, target: float) -> tuple[float, float]:
        rate = self._start
        while rate > self._start / MAX_BELOW:
            rate /= COARSE_RATIO
            if self._point(rate).attainment >= target:
                return rate, rate * COARSE_RATIO
        return 0.0, rate

    def _point(self, rate: float) -> Point:
        rate = float(f"{rate:.6g}")
        if rate not in self._points:
            self._points[rate] = Point(rate, tuple(self._measure(rate, self._seeds)))
        return self._points[rate]


def _interpolated(curve: Sequence[Point], target: float, seed_index: int) -> float:
    """One seed's goodput: where its attainment crosses the target last."""
    values = [point.by_seed[seed_index] for point in curve]
    passing = [i for i, value in enumerate(values) if value >= target]
    if not passing:
        return 0.0
    last = passing[-1]
    if last + 1 == len(curve):
        return curve[last].rate
    above, below = values[last], values[last + 1]
    share = (above - target) / (above - below) if above > below else 0.0
    return curve[last].rate * math.pow(curve[last + 1].rate / curve[last].rate, share)
