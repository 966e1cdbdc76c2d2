"""The journal of scaling: JSON lines of what was seen in each window, and of each step taken.

A `window` line and its `verdict` replay through `ScalingTrigger` to the same decisions. Lines are
few, one a window; a thread writes them, so that no disk holds up the coordinator.
"""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path

import msgspec

from rondo.policy.scaling import ScalingDecision, Window
from rondo.service import logs

log = logging.getLogger("rondo.coordinator")

SUFFIX = ".scaling.jsonl"


class WindowLine(msgspec.Struct, frozen=True, kw_only=True, tag="window"):
    """What was seen, and what it asked for."""

    window: Window
    decision: ScalingDecision


class StepLine(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """A step of mitosis, and why."""

    at_s: float
    what: str
    reason: str


class ScalingJournal:
    """One file for each epoch of the owner; ends, with a line in the log, when the disk fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="scaling-journal", daemon=True)
        self._thread.start()

    def add(self, line: WindowLine | StepLine) -> None:
        """Writes a line soon."""
        self._lines.put(msgspec.json.encode(line) + b"\n")

    def close(self, timeout_s: float = 1.0) -> None:
        """Writes what is left; does not wait longer for a disk that hangs."""
        self._lines.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        failed = False
        while (line := self._lines.get()) is not None:
            if failed:
                continue
            try:
                self._write(line)
            except OSError as error:
                failed = True
                logs.warning(log, "scaling_journal_ended", path=str(self.path), error=str(error))

    def _write(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(line)
