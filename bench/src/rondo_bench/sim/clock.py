"""Virtual time: a heap of timed actions, in order of time and then of being scheduled."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

Action = Callable[[Any], None]


class VirtualClock:
    """Runs actions in order; `now_s` is the instant of the one that runs."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Action, Any]] = []
        self._count = 0

    def at(self, at_s: float, action: Action, argument: Any = None) -> None:
        """Calls `action(argument)` at an instant, not before now."""
        self._count += 1
        heapq.heappush(self._heap, (max(at_s, self.now_s), self._count, action, argument))

    def run(self, until_s: float = float("inf")) -> None:
        """Works off everything up to an instant."""
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            self.now_s, _, action, argument = heapq.heappop(heap)
            action(argument)
