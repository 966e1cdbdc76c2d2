"""Arrival times: Poisson and Gamma streams at a constant rate, or along a rate that changes.

Every stream starts as arrivals of mean distance 1, and a rate only maps those onto the clock. So
streams of one seed and CV are one pattern at every rate, which is what comparing rates needs
(common random numbers). For Poisson arrivals the map along a changing rate is exact: it is the
time-change theorem, the same law that thinning draws from, without the rejected draws; for other
CVs it gives bursts that keep their size in requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from rondo.errors import ConfigError

FloatArray = NDArray[np.float64]

#: Beyond it nearly all gaps underflow to 0, and one of them takes longer than any run.
MAX_CV = 100.0
#: Below it the shape overflows what the generator takes, and nobody sees a difference.
_METRONOME_CV = 1e-6


class RateCurve(msgspec.Struct, frozen=True, kw_only=True):
    """A rate over time, straight between its points; arrivals end with the last point.

    `points` are (at_s, requests per second), at times that never fall; two points at one time are
    a jump. Before the first point nothing comes.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if len(self.points) < 2:
            raise ConfigError("curve", "needs at least two points")
        if not all(math.isfinite(value) for point in self.points for value in point):
            raise ConfigError("curve", "has a point that is not finite")
        if self.points[0][0] < 0 or any(b[0] < a[0] for a, b in pairwise(self.points)):
            raise ConfigError("curve", "times must start at 0 or later and never fall")
        if any(rate < 0 for _, rate in self.points):
            raise ConfigError("curve", "has a negative rate")
        if self.num_expected <= 0:
            raise ConfigError("curve", "brings no request")

    @property
    def num_expected(self) -> float:
        """The expected number of arrivals: the area under the curve."""
        return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(self.points))

    @property
    def mean_rate(self) -> float:
        """Requests per second from the first point to the last."""
        return self.num_expected / (self.points[-1][0] - self.points[0][0])

    def at_mean_rate(self, rate: float) -> RateCurve:
        """The same shape, scaled to `rate` requests a second in the mean."""
        factor = rate / self.mean_rate
        return RateCurve(points=tuple((at_s, value * factor) for at_s, value in self.points))


def step_curve(rates: Sequence[float], step_s: float) -> RateCurve:
    """A curve that holds each of `rates` for `step_s` seconds: stairs, rising or falling."""
    if not (step_s > 0 and math.isfinite(step_s)):
        raise ConfigError("curve", f"a step of {step_s} s is no step")
    points: list[tuple[float, float]] = []
    for index, rate in enumerate(rates):
        points += [(index * step_s, rate), ((index + 1) * step_s, rate)]
    return RateCurve(points=tuple(points))


def unit_gaps(rng: np.random.Generator, count: int, cv: float) -> FloatArray:
    """`count` times between arrivals: independent, Gamma, of mean 1 and the given CV.

    CV (standard deviation over mean) is 1 for Poisson arrivals and 0 for a metronome.
    """
    if not 0 <= cv <= MAX_CV:
        raise ConfigError("cv", f"must be from 0 to {MAX_CV:g}, not {cv}")
    if cv < _METRONOME_CV:
        return np.ones(count)
    shape = 1.0 / (cv * cv)
    return rng.standard_gamma(shape, size=count) / shape


def constant_arrivals(
    rng: np.random.Generator, count: int, rate: float, cv: float = 1.0
) -> FloatArray:
    """The times in seconds, ascending, of `count` arrivals at `rate` requests a second."""
    if not (rate > 0 and math.isfinite(rate)):
        raise ConfigError("rate", f"must be above 0, not {rate}")
    return np.cumsum(unit_gaps(rng, count, cv)) / rate


def curve_arrivals(rng: np.random.Generator, curve: RateCurve, cv: float = 1.0) -> FloatArray:
    """The times in seconds, ascending, of the arrivals along `curve`; their number is random."""
    area = curve.num_expected
    # Six standard deviations more than expected, so that one draw nearly always does.
    chunk = int(area + 6 * cv * math.sqrt(area)) + 16
    units = np.cumsum(unit_gaps(rng, chunk, cv))
    while units[-1] < area:
        units = np.concatenate([units, units[-1] + np.cumsum(unit_gaps(rng, chunk, cv))])
    return _times_of(units[units < area], curve)


def _times_of(units: FloatArray, curve: RateCurve) -> FloatArray:
    """When the area under `curve` reaches each of `units` (all below the whole area)."""
    points: FloatArray = np.array(curve.points, dtype=np.float64)
    at_s, rates = points[:, 0], points[:, 1]
    widths = np.diff(at_s)
    areas = np.concatenate([[0.0], np.cumsum(widths * (rates[:-1] + rates[1:]) / 2)])
    # Jumps and pauses have no area, so none of them is ever the piece that holds a unit.
    piece = np.clip(np.searchsorted(areas, units, side="right") - 1, 0, len(widths) - 1)
    missing = np.maximum(units - areas[piece], 0.0)
    start = rates[piece]
    slope = np.divide(np.diff(rates), widths, out=np.zeros_like(widths), where=widths > 0)[piece]
    # missing = start x + slope x^2 / 2, solved without cancellation and for slope 0 as well.
    root = np.sqrt(np.maximum(start * start + 2.0 * slope * missing, 0.0))
    x = np.divide(2.0 * missing, start + root, out=np.zeros_like(missing), where=start + root > 0)
    times: FloatArray = at_s[piece] + np.minimum(x, widths[piece])
    return times
