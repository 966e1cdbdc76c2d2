"""How fast a macro-instance works its pending queue off, and so how long a newcomer would wait."""

from __future__ import annotations

import math

#: Memories of the two estimates: seconds with a queue after which an observation counts 1/e.
SHORT_S = 2.0
LONG_S = 10.0
#: An estimate starts as if it had been watched for this long.
PRIOR_S = 2.0
#: Prefill seconds per second and instance that are assumed before anything was seen.
PRIOR_SHARE = 0.5


class _Rate:
    """Work per second, of which the past fades."""

    __slots__ = ("_memory_s", "watched_s", "work_s")

    def __init__(self, memory_s: float) -> None:
        self._memory_s = memory_s
        self.watched_s = PRIOR_S
        self.work_s = PRIOR_S * PRIOR_SHARE

    def pass_time(self, passed_s: float) -> None:
        decay = math.exp(-passed_s / self._memory_s)
        self.watched_s = self.watched_s * decay + passed_s
        self.work_s *= decay


class DrainRate:
    """Prefill work (predicted seconds) admitted per second and instance, while requests wait.

    Only then does it show capacity: with an empty queue it would show the offered load. Of a short
    and a long memory the slower rate counts: admission comes in waves, for a wave of requests that
    began together also ends together.
    """

    def __init__(self) -> None:
        self._rates = (_Rate(SHORT_S), _Rate(LONG_S))
        self._since_s: float | None = None

    def watch(self, at_s: float, waiting: bool) -> None:
        """Time passed; `waiting` says whether requests wait from now on."""
        if self._since_s is not None:
            for rate in self._rates:
                rate.pass_time(at_s - self._since_s)
        self._since_s = at_s if waiting else None

    def admitted(self, work_s: float, num_instances: int) -> None:
        """A request was admitted while others waited, or had waited itself."""
        for rate in self._rates:
            rate.work_s += work_s / num_instances

    def wait_s(self, work_s: float, num_instances: int) -> float:
        """Predicted time until so much pending work is admitted."""
        slowest = max(rate.watched_s / max(rate.work_s, 1e-9) for rate in self._rates)
        return work_s * slowest / max(1, num_instances)
