"""Keeps a worker on CPU cores of its own, so that instances of one machine do not move about.

Threads inherit the affinity of the thread that starts them: who calls `pin_process` before it
starts any, and before torch is imported, has pinned all of them, and OpenMP counts these cores.
"""

from __future__ import annotations

import os

from rondo.errors import ConfigError

SETTING = "RONDO_CORES"


def parse_cores(text: str, setting: str = SETTING) -> frozenset[int]:
    """Core numbers from text like "0-3,8"; empty for "".

    Raises:
        ConfigError: it is not of that form; names `setting`.
    """
    cores: set[int] = set()
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdigit() for end in ends):
            raise ConfigError(setting, f"{text!r}: {part!r} is no core; expected e.g. 0-3,8")
        low, high = int(ends[0]), int(ends[1])
        if low > high or high >= 2**16:
            raise ConfigError(setting, f"{text!r}: {part!r} is no range of cores")
        cores.update(range(low, high + 1))
    return frozenset(cores)


def pin_process(text: str) -> None:
    """Confines the calling thread, and those it starts from now on, to the cores in `text`.

    Raises:
        ConfigError: malformed, a core that this process may not use, or a system without affinity.
    """
    cores = parse_cores(text)
    if not cores:
        return
    if not hasattr(os, "sched_setaffinity"):  # macOS
        raise ConfigError(SETTING, "this system does not pin processes; leave it empty")
    allowed = os.sched_getaffinity(0)
    if not cores <= allowed:
        missing = ", ".join(map(str, sorted(cores - allowed)))
        raise ConfigError(SETTING, f"{text!r}: this process may not use core {missing}")
    os.sched_setaffinity(0, cores)
