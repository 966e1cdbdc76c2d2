"""What a macro-instance's scheduler saw of its load, for whoever sets the number of instances."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rondo.policy.changes import Begun
from rondo.policy.slack import SlackTable


@dataclass(slots=True)
class LoadCount:
    """Sums from the beginning on: who looks at times takes differences. Times in seconds.

    num_served: requests that began to decode, with the sums of their TTFT and of its limits.
    num_refused: requests refused for load.
    """

    num_served: int = 0
    ttft_s: float = 0.0
    ttft_limit_s: float = 0.0
    num_refused: int = 0

    def began(self, begun: Begun) -> None:
        """A request's decode began."""
        self.num_served += 1
        self.ttft_s += begun.ttft_s
        self.ttft_limit_s += begun.ttft_limit_s


def mean_saved_tpot_s(tables: Iterable[tuple[SlackTable, int]], at_s: float) -> float | None:
    """Mean over several tables, each at its step count; None when nothing decodes."""
    total_s, num = 0.0, 0
    for table, steps in tables:
        if count := len(table):
            total_s += count * table.mean_s(steps, at_s)
            num += count
    return total_s / num if num else None
