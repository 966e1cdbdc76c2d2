"""What a scaling trigger sees of the load, and what it remembers so that it does not flap."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import msgspec

#: A size that was too small is tried again when peaks stay below this share of what it failed at.
FAILED_SHARE = 0.9
#: A load has clearly fallen when it is below this share of what it was.
FALLEN_SHARE = 0.8
#: Standard deviations between a mean and a peak, or between two means that surely differ. Ten
#: thousand windows are as many trials: with 4, one simulated cluster in eight changed its mind.
SURE_SIGMAS = 6.0
#: The deviation is measured over this many windows, of which this many have to be there.
NOISE_WINDOWS = 400
LEAST_NOISE_WINDOWS = 10
#: Median of the absolute difference of two normal values, for a standard deviation of 1.
NORMAL_MEDIAN_DIFFERENCE = 0.954


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a macro-instance, or of all of one model, from `at_s - duration_s` on.

    num_instances: those that take requests at `at_s`. mean_ttft_s, mean_saved_tpot_s: None where
    nothing was seen. ttft_limit_s: the requests' mean limit. num_served, num_refused: requests that
    began to decode, and that were refused for load. used_share: estimate of the load over what the
    instances could serve within the SLO, 1 when saturated; None if there is none. It is not the
    time in which they stepped: an instance that decodes a single request is busy and nearly free.
    """

    at_s: float
    duration_s: float
    num_instances: int
    mean_ttft_s: float | None
    mean_saved_tpot_s: float | None
    ttft_limit_s: float
    num_served: int
    num_refused: int
    used_share: float | None = None


class LoadMemory:
    """What the load was: how it varies, the level that a size settled at, which sizes failed.

    Loads are offered requests/s.
    """

    def __init__(self, settle_windows: int) -> None:
        self._settle_windows = settle_windows
        self._rates: deque[float] = deque(maxlen=NOISE_WINDOWS)
        self._block: list[Window] = []  # since the last decision, or the last whole block
        self._level: float | None = None  # highest block since the last decision
        self._failed: dict[int, float] = {}  # size: least load that it failed at

    def see(self, window: Window) -> None:
        """One window more."""
        self._rates.append(offered_rate((window,)))
        self._block.append(window)
        if len(self._block) == self._settle_windows:
            self._level = max(self._level or 0.0, offered_rate(self._block))
            self._block = []
            self._failed = {}

    def resized(self) -> None:
        """The size changes now: the level is learnt anew."""
        self._block, self._level = [], None

    def failed(self, num_instances: int, windows: Sequence[Window]) -> None:
        """So many instances were too few for the load of these windows."""
        load = offered_rate(windows)
        self._failed[num_instances] = min(load, self._failed.get(num_instances, load))

    def objection(
        self, num_instances: int, last: Sequence[Window], streak: Sequence[Window]
    ) -> str | None:
        """Why the size may not go down to this many.

        Args:
            last: the least number of windows that ask for it in a row.
            streak: all of those, as far as they are kept.
        """
        if len(self._rates) < LEAST_NOISE_WINDOWS:
            return f"only {len(self._rates)} of {LEAST_NOISE_WINDOWS} windows were seen"
        level = self._level
        if level is not None and not any(self._clearly_below(level, w) for w in (last, streak)):
            rate = offered_rate(last)
            return f"{rate:.2f} requests/s are not clearly below the {level:.2f} of before"
        failed = [load for size, load in self._failed.items() if size >= num_instances]
        if failed and self.peak(last) > FAILED_SHARE * min(failed):
            return f"{num_instances} were too few for {min(failed):.2f} requests/s"
        return None

    def _clearly_below(self, level: float, windows: Sequence[Window]) -> bool:
        rate = offered_rate(windows)
        if rate >= FALLEN_SHARE * level:
            return False
        # The deviation at `level`, if that is the load still.
        noise = self._deviation(level, windows[-1].duration_s)
        return rate < level - SURE_SIGMAS * noise / math.sqrt(len(windows))

    def peak(self, windows: Sequence[Window]) -> float:
        """What the load of the last windows may rise to without having changed."""
        rate = offered_rate(windows)
        return rate + SURE_SIGMAS * self._deviation(rate, windows[-1].duration_s)

    def _deviation(self, rate: float, duration_s: float) -> float:
        """Standard deviation from window to window, never below that of independent arrivals.

        It grows with the root of the load. By the median of the differences: a step or a slow rise
        of the load is no noise.
        """
        scaled = [
            abs(a - b) / math.sqrt((a + b) / 2) if a + b else 0.0 for a, b in pairwise(self._rates)
        ]
        measured = median(scaled) / NORMAL_MEDIAN_DIFFERENCE
        return max(1 / math.sqrt(duration_s), measured) * math.sqrt(rate)


def offered_rate(windows: Sequence[Window]) -> float:
    """Requests/s, refused ones included."""
    total = sum(window.num_served + window.num_refused for window in windows)
    return total / sum(window.duration_s for window in windows)
