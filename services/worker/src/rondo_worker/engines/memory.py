"""What a process holds in memory, for engines whose weights and pool lie in it."""

from __future__ import annotations

import resource
import sys

#: getrusage counts in KiB, but on macOS in bytes.
_UNIT = 1 if sys.platform == "darwin" else 1024


def process_peak_bytes() -> int:
    """The most that this process has held so far: its peak resident size."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
