"""A line on the terminal that says how far a run is."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from rondo_bench.load.outcomes import Outcome

#: Not oftener than this.
PAUSE_S = 0.2
BAR_CHARS = 30


class Progress:
    """Counts outcomes; writes only to a terminal, so logs stay clean.

    Args:
        total: requests of the run.
        out: where the line goes; stderr by default.
    """

    def __init__(self, total: int, out: TextIO | None = None) -> None:
        self._total = total
        self._out = out or sys.stderr
        self._shown = self._out.isatty()
        self._ended = self._refused = self._failed = 0
        self._next_s = 0.0

    def took(self, outcome: Outcome) -> None:
        """One more has ended."""
        self._ended += 1
        self._failed += outcome.ending.is_failure
        self._refused += not outcome.completed and not outcome.ending.is_failure
        now_s = time.monotonic()
        if self._shown and now_s >= self._next_s:
            self._next_s = now_s + PAUSE_S
            self._out.write(f"\r{self.line()}")
            self._out.flush()

    def line(self) -> str:
        """The bar and the counts."""
        full = BAR_CHARS * self._ended // max(1, self._total)
        bar = "#" * full + "." * (BAR_CHARS - full)
        counts = f"{self._ended}/{self._total}"
        return f"[{bar}] {counts}, {self._refused} refused, {self._failed} failed"

    def close(self) -> None:
        """The last state, and the end of the line."""
        if self._shown:
            self._out.write(f"\r{self.line()}\n")
