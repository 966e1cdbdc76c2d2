"""Processor time of other processes, and the cores they may use (Linux)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from rondo.local.process import die_with_parent


def cpu_s(pids: Iterable[int]) -> float:
    """Seconds on a processor so far, of all threads, to the nanosecond where the kernel says.

    Threads that have ended are in the process's own count only, which has ticks of 10 ms; so the
    greater of the two is taken.
    """
    return sum(max(_by_thread_s(pid), _by_ticks_s(pid)) for pid in pids)


def _by_thread_s(pid: int) -> float:
    total_ns = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total_ns += int(path.read_text().split()[0])
        except OSError:  # the thread has just ended
            continue
    return total_ns / 1e9


def _by_ticks_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pinned(core: int) -> Callable[[], None]:
    """A `preexec_fn`: the child runs on this core only, and not longer than its parent."""

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        die_with_parent()

    return prepare


def pin(pid: int, core: int) -> None:
    """All threads of a running process onto one core."""
    for path in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(path.name), {core})
