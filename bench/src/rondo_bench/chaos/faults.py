"""Kills programs of a local cluster, by a seeded script."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

#: What the command line of a program contains, by the name of its fault.
PROGRAMS = {
    "worker": "rondo_worker",
    "coordinator": "rondo_coordinator",
    "gateway": "rondo_gateway",
    "bus": "nats-server",
}


def programs_of(launcher_pid: int, kind: str) -> list[int]:
    """Process ids of one kind of program that `rondo up` started, in ascending order."""
    children = Path(f"/proc/{launcher_pid}/task/{launcher_pid}/children").read_text().split()
    found = []
    for pid in map(int, children):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        except OSError:  # ended meanwhile
            continue
        if PROGRAMS[kind] in command:
            found.append(pid)
    return sorted(found)


async def inject(
    launcher_pid: int, kinds: Sequence[str], period_s: float, seed: int, done: Counter[str]
) -> None:
    """SIGKILLs one program each `period_s`, until cancelled; counts in `done`, by kind.

    The kinds take turns. Of a kind with several programs the seed chooses; one that is away at the
    moment is left to come back.
    """
    rng = random.Random(seed)
    turn = 0
    while True:
        await asyncio.sleep(period_s)
        kind = kinds[turn % len(kinds)]
        turn += 1
        if alive := programs_of(launcher_pid, kind):
            os.kill(rng.choice(alive), signal.SIGKILL)
            done[kind] += 1
