"""Latency figures over a sliding window, and a point of them for each second.

TTFT and TPOT are what gateways measured; a request counts for attainment and goodput when it met
both limits that it came with. What was refused or failed counts as not met.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from rondo_gateway.console.view import Millis, Point

WINDOW_MS: Millis = 10_000
#: Points kept: ten minutes.
MAX_POINTS = 600
#: Ends kept within a window; at higher rates the window is shorter, and so is what it divides by.
MAX_ENDS = 50_000


@dataclass(frozen=True, slots=True)
class _End:
    at: Millis
    ttft_ms: float | None
    tpot_ms: float | None
    met: bool


class Figures:
    """Counts ends of requests."""

    def __init__(self) -> None:
        self._ends: deque[_End] = deque(maxlen=MAX_ENDS)
        self._since: Millis = 0
        self.points: deque[Point] = deque(maxlen=MAX_POINTS)

    def start(self, now: Millis) -> None:
        """Begins anew: nothing before `now` was seen."""
        self._ends.clear()
        self._since = now

    def ended(
        self, now: Millis, ttft_ms: float | None, tpot_ms: float | None, *, met: bool
    ) -> None:
        """A request ended."""
        self._ends.append(_End(now, ttft_ms, tpot_ms, met))

    def point(self, now: Millis) -> Point:
        """The figures of the window that ends now; also kept."""
        ends = self._ends
        full = len(ends) == MAX_ENDS
        while ends and ends[0].at < now - WINDOW_MS:
            ends.popleft()
            full = False
        span_ms = now - (ends[0].at if full else max(self._since, now - WINDOW_MS))
        span_s = max(1.0, span_ms / 1000)
        met = sum(end.met for end in ends)
        ttfts = sorted(end.ttft_ms for end in ends if end.ttft_ms is not None)
        tpots = sorted(end.tpot_ms for end in ends if end.tpot_ms is not None)
        point = Point(
            at=now,
            rate=round(len(ends) / span_s, 2),
            goodput=round(met / span_s, 2),
            attainment=round(met / len(ends), 4) if ends else None,
            ttft_p50_ms=_quantile(ttfts, 0.5),
            ttft_p99_ms=_quantile(ttfts, 0.99),
            tpot_p50_ms=_quantile(tpots, 0.5),
            tpot_p99_ms=_quantile(tpots, 0.99),
        )
        self.points.append(point)
        return point


def _quantile(values: list[float], share: float) -> float | None:
    """Of sorted values, the one that `share` of them do not exceed (nearest rank)."""
    if not values:
        return None
    return round(values[max(0, math.ceil(len(values) * share) - 1)], 2)
