"""One run of the load client, and a search over many."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import uvloop

from rondo.errors import PeerError
from rondo_bench.load.client import LoadClient, RunOptions
from rondo_bench.load.options import arrivals_of, slo_of, target_of
from rondo_bench.load.outcomes import Outcome
from rondo_bench.load.progress import Progress
from rondo_bench.sim.goodput import Goodput, GoodputSearch
from rondo_bench.sim.records import Arrival

#: A bisection stops at this ratio: real runs scatter more than simulated ones.
FINE_RATIO = 1.05


class RunGivenUp(PeerError):
    """Too many requests failed."""


async def run_load(args: argparse.Namespace, seed: int, rate: float | None) -> list[Outcome]:
    """Warm-up, then the requests that count; what became of these, in order."""
    target, arrivals = target_of(args), arrivals_of(args, seed, rate)
    progress = Progress(len(arrivals))
    options = RunOptions(seed=seed, max_failures=args.max_errors, on_end=progress.took)
    async with LoadClient(target) as client:
        if args.warm_up:
            first = [arrivals[i % len(arrivals)] for i in range(args.warm_up)]
            await client.closed_loop(first, max(1, args.warm_up // 4), RunOptions(seed=seed + 1))
        try:
            return await _offer(client, arrivals, args.concurrency, options)
        finally:
            progress.close()


async def _offer(
    client: LoadClient, arrivals: Sequence[Arrival], concurrency: int | None, options: RunOptions
) -> list[Outcome]:
    if concurrency is None:
        return await client.open_loop(arrivals, options)
    return await client.closed_loop(arrivals, concurrency, options)


def search_goodput(args: argparse.Namespace) -> Goodput:
    """The highest rate at which `--target` of the requests meet their objectives.

    Raises:
        RunGivenUp: the server fails requests, so no rate means anything.
    """
    slo = slo_of(args)

    def measure(rate: float, seeds: Sequence[int]) -> list[float]:
        shares: list[float] = []
        for seed in seeds:
            outcomes = uvloop.run(run_load(args, seed, rate))
            failures = [one for one in outcomes if one.ending.is_failure]
            if len(failures) > args.max_errors:
                raise RunGivenUp(f"{len(failures)} requests failed: {failures[0].error}")
            shares.append(
                sum(one.meets(one.arrival.slo or slo) for one in outcomes) / len(outcomes)
            )
        mean = sum(shares) / len(shares)
        print(f"{rate:10.3f} requests/s  {mean:8.2%}", file=sys.stderr)
        return shares

    seeds = range(args.seed, args.seed + args.seeds)
    return GoodputSearch(measure, args.rate or 1.0, seeds, args.fine).find(args.target)
