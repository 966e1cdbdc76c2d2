"""One run against one side, and a mean request alone."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from statistics import median

import msgspec

from rondo.errors import PeerError
from rondo.types import Slo
from rondo_bench.goodput_real import model
from rondo_bench.goodput_real.records import Cell, Header, Run, Unloaded
from rondo_bench.goodput_real.sides import Running
from rondo_bench.goodput_real.workloads import Workload
from rondo_bench.load.client import LoadClient, RunOptions, Target
from rondo_bench.load.figures import summarize_outcomes
from rondo_bench.load.outcomes import Outcome
from rondo_bench.load.prompts import BodyShape
from rondo_bench.sim.records import Arrival
from rondo_bench.streaming.cpu import cpu_s

#: Requests alone, and tokens of each: enough for a mean step.
ALONE_REQUESTS, ALONE_TOKENS = 5, 16
#: Sequences of a step that the first guess of a side's capacity reckons with.
GUESSED_BATCH = 16
#: A request that takes longer than this counts as failed; it has missed every limit by then.
TIMEOUT_S = 120.0


class NoAnswer(PeerError):
    """A request alone was not answered."""


def target_of(host: Running, vocabulary: int, slo: Slo) -> Target:
    """Where requests go; `slo` is told to those that read it."""
    shape = BodyShape(
        model=model.NAME,
        first_id=model.FIRST_ID,
        last_id=vocabulary - 1,
        send_slo=host.reads_slo,
    )
    first, *others = host.urls
    return Target(base_url=first, shape=shape, slo=slo, timeout_s=TIMEOUT_S, replicas=tuple(others))


async def unloaded(
    name: str, host: Running, workload: Workload, header: Header, vocabulary: int
) -> Unloaded:
    """Serves mean requests one at a time; the objectives that follow from their times.

    Raises:
        NoAnswer: a request failed.
    """
    prompt, output = workload.mean(header.scale)
    arrivals = [
        Arrival(request_id=f"alone{i}", at_s=0.0, prompt_tokens=prompt, output_tokens=ALONE_TOKENS)
        for i in range(ALONE_REQUESTS + 2 * len(host.urls))
    ]
    # Generous objectives: nothing is to be refused here.
    async with LoadClient(target_of(host, vocabulary, Slo(ttft_s=60.0, tpot_s=10.0))) as client:
        outcomes = await client.closed_loop(arrivals, 1, RunOptions(seed=1, max_failures=0))
    counted = outcomes[2 * len(host.urls) :]  # every server has warmed up
    first = [one.ttft_s for one in counted if one.ttft_s is not None]
    step = [one.tpot_s for one in counted if one.tpot_s is not None]
    if len(first) < len(counted):
        raise NoAnswer(f"{name}: {next(one.error for one in counted if not one.completed)}")
    ttft_s, tpot_s = median(first), median(step)
    slo = workload.slo(ttft_s, tpot_s)
    alone_s = ttft_s + output * tpot_s / GUESSED_BATCH
    return Unloaded(
        workload=workload.name,
        side=name,
        prompt_tokens=prompt,
        output_tokens=output,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        ttft_limit_s=slo.ttft_s,
        tpot_limit_s=slo.tpot_s,
        base_rate=2 / alone_s,
    )


async def one_run(
    cell: Cell,
    host: Running,
    target: Target,
    arrivals: Sequence[Arrival],
    slo: Slo,
    settle_s: float,
) -> Run:
    """Offers the arrivals of a cell.

    Requests of the first `settle_s` do not count; all others do, the refused and failed as missed.
    """
    load_average = os.getloadavg()[0]
    engines, front, own = cpu_s(host.engines), cpu_s(host.front), time.process_time()
    async with LoadClient(target) as client:
        outcomes = await client.open_loop(arrivals, RunOptions(seed=cell.seed))
    return figures(
        cell,
        [one for one in outcomes if one.arrival.at_s >= settle_s],
        slo,
        engine_cpu_s=cpu_s(host.engines) - engines,
        front_cpu_s=cpu_s(host.front) - front,
        client_cpu_s=time.process_time() - own,
        load_average=load_average,
    )


def figures(
    cell: Cell,
    counted: Sequence[Outcome],
    slo: Slo,
    *,
    engine_cpu_s: float,
    front_cpu_s: float,
    client_cpu_s: float,
    load_average: float,
) -> Run:
    """The figures of the requests that count."""
    summary = summarize_outcomes(counted, slo, cell.seed)
    done = [one for one in counted if one.completed]
    return Run(
        **msgspec.structs.asdict(cell),
        engine_cpu_s=engine_cpu_s,
        front_cpu_s=front_cpu_s,
        client_cpu_s=client_cpu_s,
        load_average=load_average,
        offered=summary["offered"],
        attainment=summary["attainment"] or 0.0,
        refused=summary["rejected"],
        failed=summary["offered"] - summary["completed"] - summary["rejected"],
        missed_ttft=sum(one.ttft_s is not None and one.ttft_s > slo.ttft_s for one in done),
        missed_tpot=sum(one.tpot_s is not None and one.tpot_s > slo.tpot_s for one in done),
        ttft_p50_s=summary["ttft_s"]["p50"],
        ttft_p99_s=summary["ttft_s"]["p99"],
        tpot_p50_s=summary["tpot_s"]["p50"],
        tpot_p99_s=summary["tpot_s"]["p99"],
        late_p99_s=summary["late_s"]["p99"],
        duration_s=summary["duration_s"],
    )
