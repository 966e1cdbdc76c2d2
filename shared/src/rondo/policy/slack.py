"""Saved TPOT of the requests that decode on an instance: how far they are ahead of their limit.

saved = (tokens after the first) x TPOT limit - (now - decode start), EcoServe's measure
(arXiv 2504.18154, algorithm 1) less the first token, which costs no TPOT. All requests of an
instance get one token a step, so among those with one limit the order never changes: a request is
kept under the part of its saved TPOT that does not depend on now, and looking up is cheap.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from math import inf


class SlackTable:
    """Saved TPOT in seconds, by mean or quantile, at a step count and an instant."""

    def __init__(self) -> None:
        self._keys: dict[float, list[float]] = {}  # TPOT limit -> ascending keys
        self.least_tpot_s = inf
        """Tightest limit; infinite when nothing decodes."""
        self._num = 0
        self._sum_keys = 0.0
        self._sum_tpot_s = 0.0

    def __len__(self) -> int:
        return self._num

    @staticmethod
    def key(tpot_s: float, base_step: int, start_s: float) -> float:
        """The constant part for a request whose decode began at `start_s` after `base_step`."""
        return start_s - tpot_s * base_step

    def add(self, tpot_s: float, key: float) -> None:
        """A request decodes."""
        if tpot_s not in self._keys:
            self._keys[tpot_s] = []
            self.least_tpot_s = min(self._keys)
        insort(self._keys[tpot_s], key)
        self._num += 1
        self._sum_keys += key
        self._sum_tpot_s += tpot_s

    def remove(self, tpot_s: float, key: float) -> None:
        """It does no longer."""
        keys = self._keys[tpot_s]
        del keys[bisect_left(keys, key)]
        if not keys:
            del self._keys[tpot_s]
            self.least_tpot_s = min(self._keys, default=inf)
        self._num -= 1
        self._sum_keys -= key
        self._sum_tpot_s -= tpot_s
        if not self._num:  # rounding must not pile up
            self._sum_keys = self._sum_tpot_s = 0.0

    @property
    def mean_tpot_s(self) -> float:
        """Mean limit; 0 when nothing decodes."""
        return self._sum_tpot_s / self._num if self._num else 0.0

    def mean_s(self, steps: int, at_s: float) -> float:
        """Mean saved TPOT after `steps` decode steps; infinite when nothing decodes."""
        if not self._num:
            return float("inf")
        return (self._sum_keys + self._sum_tpot_s * steps) / self._num - at_s

    def quantile_s(self, quantile: float, steps: int, at_s: float) -> float:
        """The saved TPOT that a share `quantile` of the requests falls short of; 0 is the least.

        Infinite when nothing decodes.
        """
        if not self._num:
            return float("inf")
        rank = int(quantile * (self._num - 1))
        if len(self._keys) == 1:
            [(tpot_s, keys)] = self._keys.items()
            return keys[rank] + tpot_s * steps - at_s
        if rank == 0:
            return min(keys[0] + tpot_s * steps for tpot_s, keys in self._keys.items()) - at_s
        saved = sorted(
            key + tpot_s * steps for tpot_s, keys in self._keys.items() for key in keys[: rank + 1]
        )
        return saved[rank] - at_s
