"""A chaos run: answers without faults first, then faults under load, phase after phase."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rondo.errors import RondoError
from rondo.local.model_folder import find_model
from rondo_bench.chaos.asks import NUM_ASKS, Answer, Ask, Kind, make_asks, with_stops
from rondo_bench.chaos.cluster import ChaosCluster, ClusterOptions, chaos_cluster
from rondo_bench.chaos.faults import Injector
from rondo_bench.chaos.judge import FORBIDDEN, judge
from rondo_bench.chaos.load import Ending, Outcome, Service, run_clients

CALM_CONCURRENCY = 32
#: A request that takes longer hangs.
HUNG_S = 120.0
#: So long after its last request a cluster may take to be as at the start.
WHOLE_TIMEOUT_S = 60.0


class NotRepeatable(RondoError):
    """The cluster does not answer, or not twice the same, even without faults."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of load under some kinds of faults, which take turns."""

    kinds: tuple[str, ...]
    seconds: float
    requests: int | None = None

    @property
    def name(self) -> str:
        """For the report."""
        return ",".join(self.kinds) if len(self.kinds) < 6 else "all of them"


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """Options of `rondo-bench chaos`.

    Attributes:
        period_s: from one fault to the next; None takes each kind's own.
        keep: folder for the cluster's files, which stay there; None takes a temporary one.
    """

    cluster: ClusterOptions
    phases: tuple[Phase, ...]
    seed: int
    concurrency: int
    period_s: float | None
    keep: Path | None = None


async def run_chaos(options: ChaosOptions, progress: Callable[[str], None]) -> list[dict[str, Any]]:
    """The report of each phase.

    Raises:
        NotRepeatable: there is nothing to compare with.
    """
    model = find_model(None, weights=options.cluster.engine != "emulated")
    reports = []
    with _folder(options.keep) as folder:
        async with chaos_cluster(folder, options.cluster, options.seed) as cluster:
            service = Service(cluster.url, model.name, HUNG_S)
            progress("the cluster is ready; asking without faults")
            asks, expected = await expect(service, options.seed)
            for index, phase in enumerate(options.phases):
                progress(f"{phase.name}: {phase.seconds:g} s")
                seed = options.seed * 100 + index
                report = await _run_phase(cluster, service, asks, expected, phase, seed, options)
                reports.append({"phase": phase.name, **report})
                progress(_brief(report))
    return reports


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            yield Path(scratch)
    else:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep


async def expect(service: Service, seed: int) -> tuple[list[Ask], dict[str, Answer]]:
    """What to ask, and the answers by key. Each one comes twice, and must be the same.

    Raises:
        NotRepeatable: it was not.
    """
    asks = make_asks(NUM_ASKS, seed)
    first = await _calm(service, asks)
    asks, texts = with_stops(asks, first)
    expected = await _calm(service, asks)
    for ask in asks:
        answer, before = expected[ask.key], first[ask.key]
        same = answer.texts == (texts[ask.key],) if ask.kind is Kind.STOP else answer == before
        if not same:
            raise NotRepeatable(f"{ask.kind.value}: {before} at first, then {answer}")
    return asks, expected


async def _calm(service: Service, asks: Sequence[Ask]) -> dict[str, Answer]:
    outcomes = await run_clients(service, asks, CALM_CONCURRENCY, lambda count: count < len(asks))
    for outcome in outcomes:
        if outcome.ending is not Ending.COMPLETED or outcome.flaw:
            problem = outcome.error or outcome.flaw or outcome.ending.value
            raise NotRepeatable(f"no answer even without faults: {problem}")
    return {outcome.ask.key: outcome.answer for outcome in outcomes}


def _brief(report: dict[str, Any]) -> str:
    """A line for whoever waits for the end."""
    names = ("requests", "completed", "typed_errors", "broken_connections", *FORBIDDEN)
    counts = ", ".join(f"{name} {report[name]}" for name in names if report[name])
    left = f"; left behind: {report['left_behind']}" if report["left_behind"] else ""
    return f"  {report['faults']}: {counts}{left}"


async def _run_phase(
    cluster: ChaosCluster,
    service: Service,
    asks: Sequence[Ask],
    expected: dict[str, Answer],
    phase: Phase,
    seed: int,
    options: ChaosOptions,
) -> dict[str, Any]:
    began_s = time.monotonic()
    before, sent_before = cluster.members.copy(), cluster.noise.sent.copy()
    injector = Injector(cluster.targets, phase.kinds, seed, options.period_s)
    outcomes = await _under_faults(injector, service, asks, phase, options.concurrency)
    loaded_s = time.monotonic() - began_s
    problem = await cluster.whole(options.cluster.workers, WHOLE_TIMEOUT_S)
    return {
        "seconds": round(loaded_s, 1),
        **judge(expected, outcomes, injector.injected),
        "members": dict(sorted((cluster.members - before).items())),
        "messages": dict(sorted((cluster.noise.sent - sent_before).items())),
        "left_behind": problem,
        "whole_after_s": round(time.monotonic() - began_s - loaded_s, 1),
    }


async def _under_faults(
    injector: Injector, service: Service, asks: Sequence[Ask], phase: Phase, concurrency: int
) -> list[Outcome]:
    """Load until the phase is over; the faults go on until the last answer has ended."""
    until_s = time.monotonic() + phase.seconds

    def more(count: int) -> bool:
        return time.monotonic() < until_s if phase.requests is None else count < phase.requests

    injecting = asyncio.create_task(injector.run())
    loading = asyncio.create_task(run_clients(service, asks, concurrency, more))
    try:
        await asyncio.wait({injecting, loading}, return_when=asyncio.FIRST_COMPLETED)
        if injecting.done():
            injecting.result()  # it never ends by itself
        return await loading
    finally:
        for task in (injecting, loading):
            task.cancel()
        await asyncio.gather(injecting, loading, return_exceptions=True)
