"""Faults, by a seeded script: programs that die, hang or are parted, and noise on the bus."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

from rondo_bench.chaos.noise import Noise
from rondo_bench.chaos.programs import owner_pid, programs_of
from rondo_bench.chaos.relay import Relay

#: From the beginning of the load to the first fault.
FIRST_S = 1.0
#: Without an owner, one is waited for so long.
OWNER_WAIT_S = 10.0
OWNER_POLL_S = 0.05
#: A slow program pauses so often, each time for a moment far below the time-out of silence.
SLOW_PAUSES = 8
SLOW_PAUSE_S = (0.05, 0.6)
SLOW_RUN_S = (0.05, 0.2)


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One kind of fault.

    Attributes:
        program: what it hits; empty for the bus's clients or messages.
        how: kill, term, stop, slow, part or noise.
        period_s: from one to the next, when nothing else is asked for.
        away_s: for how long a program is stopped or parted, from and to.
        meaning: for people.
    """

    program: str
    how: str
    period_s: float
    meaning: str
    away_s: tuple[float, float] = (0.0, 0.0)


KINDS = {
    "worker": FaultKind("worker", "kill", 2.0, "SIGKILL of a worker"),
    "worker-stop": FaultKind(
        "worker", "stop", 4.0, "a worker hangs: SIGSTOP, 5 to 8 s later SIGCONT", (5.0, 8.0)
    ),
    "worker-slow": FaultKind(
        "worker", "slow", 2.0, f"a worker stutters: {SLOW_PAUSES} pauses of up to 0.6 s"
    ),
    "worker-term": FaultKind("worker", "term", 5.0, "SIGTERM of a worker: it drains"),
    "coordinator": FaultKind("coordinator", "kill", 8.0, "SIGKILL of the owning coordinator"),
    "coordinator-stop": FaultKind(
        "coordinator", "stop", 10.0, "the owner hangs for 4 to 6 s and is deposed", (4.0, 6.0)
    ),
    "coordinator-term": FaultKind(
        "coordinator", "term", 6.0, "SIGTERM of the owning coordinator: it hands over"
    ),
    "gateway": FaultKind("gateway", "kill", 6.0, "SIGKILL of a gateway"),
    "gateway-stop": FaultKind("gateway", "stop", 6.0, "a gateway hangs for 1 to 4 s", (1.0, 4.0)),
    "gateway-term": FaultKind("gateway", "term", 6.0, "SIGTERM of a gateway"),
    "bus": FaultKind("bus", "kill", 8.0, "SIGKILL of nats-server"),
    "bus-stop": FaultKind("bus", "stop", 10.0, "nats-server hangs for 1 to 6 s", (1.0, 6.0)),
    "partition": FaultKind("", "part", 8.0, "one program is cut off from the bus", (1.0, 7.0)),
    "messages": FaultKind("", "noise", 1.0, "16 damaged, repeated or late messages on the bus"),
}
#: Of the gateway's own faults a client sees more than a pause.
SEEN_BY_CLIENTS = ("gateway", "gateway-term")


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that was injected; `at_s` is of time.monotonic, `detail` says whom it hit."""

    kind: str
    at_s: float
    detail: str


@dataclass(frozen=True, slots=True)
class Targets:
    """What there is to hurt.

    Attributes:
        parents: processes whose children the programs are.
        nats_url: of the server itself, past the relay.
    """

    parents: tuple[int, ...]
    nats_url: str
    relay: Relay
    noise: Noise


class Injector:
    """Injects faults until cancelled, and then lets everybody go.

    Args:
        kinds: names of KINDS, which take turns.
        period_s: from one fault to the next; None takes each kind's own.
    """

    def __init__(
        self, targets: Targets, kinds: Sequence[str], seed: int, period_s: float | None
    ) -> None:
        self._targets = targets
        self._kinds = list(kinds)
        self._rng = random.Random(seed)
        self._period_s = period_s
        self._stopped: list[int] = []
        self.injected: list[Injected] = []

    async def run(self) -> None:
        """Goes on until cancelled. What happens at a time is up to the machine, not to the seed."""
        hows: dict[str, Callable[[str], Coroutine[None, None, None]]] = {
            "kill": lambda name: self._signal(name, signal.SIGKILL),
            "term": lambda name: self._signal(name, signal.SIGTERM),
            "stop": self._stop,
            "slow": self._slow,
            "part": self._part,
            "noise": self._noise,
        }
        try:
            async with asyncio.TaskGroup() as group:
                await asyncio.sleep(FIRST_S)
                for name in itertools.cycle(self._kinds):
                    kind = KINDS[name]
                    group.create_task(hows[kind.how](name))
                    await asyncio.sleep(self._period_s or kind.period_s)
        finally:
            for pid in self._stopped:
                _send(pid, signal.SIGCONT)
            self._targets.relay.free_all()

    async def _signal(self, name: str, number: signal.Signals) -> None:
        pid = await self._victim(KINDS[name].program)
        if pid and _send(pid, number):
            self._record(name, f"pid {pid}")

    async def _stop(self, name: str) -> None:
        kind = KINDS[name]
        if pid := await self._victim(kind.program):
            away_s = self._rng.uniform(*kind.away_s)
            self._record(name, f"pid {pid} for {away_s:.1f} s")
            await self._pause(pid, away_s)

    async def _slow(self, name: str) -> None:
        if pid := await self._victim(KINDS[name].program):
            self._record(name, f"pid {pid}")
            for _ in range(SLOW_PAUSES):
                await self._pause(pid, self._rng.uniform(*SLOW_PAUSE_S))
                await asyncio.sleep(self._rng.uniform(*SLOW_RUN_S))

    async def _pause(self, pid: int, duration_s: float) -> None:
        self._stopped.append(pid)
        _send(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(duration_s)
        finally:
            _send(pid, signal.SIGCONT)
            self._stopped.remove(pid)

    async def _part(self, name: str) -> None:
        relay, away_s = self._targets.relay, self._rng.uniform(*KINDS[name].away_s)
        if not (names := relay.names()):
            return
        victim, cut = self._rng.choice(names), self._rng.random() < 0.5
        self._record(name, f"{victim} for {away_s:.1f} s{', connection reset' if cut else ''}")
        relay.block(victim)
        if cut:
            relay.cut(victim)
        await asyncio.sleep(away_s)
        relay.free(victim)

    async def _noise(self, name: str) -> None:
        at_s = time.monotonic()
        if num_sent := await self._targets.noise.burst():
            self.injected.append(Injected(name, at_s, f"{num_sent} messages"))

    def _record(self, name: str, detail: str) -> None:
        self.injected.append(Injected(name, time.monotonic(), detail))

    async def _victim(self, program: str) -> int | None:
        """A program to hit that runs now; of coordinators the owner, once there is one."""
        targets = self._targets
        deadline_s = time.monotonic() + OWNER_WAIT_S
        while program == "coordinator" and time.monotonic() < deadline_s:
            if pid := await owner_pid(targets.parents, targets.nats_url):
                return pid
            await asyncio.sleep(OWNER_POLL_S)
        running = programs_of(targets.parents, program) if program != "coordinator" else []
        free = [pid for pid in running if pid not in self._stopped]
        return self._rng.choice(free) if free else None


def _send(pid: int, number: signal.Signals) -> bool:
    """Signals a process; False when it is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
