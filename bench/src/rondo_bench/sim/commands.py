"""rondo-bench simulate and rondo-bench goodput."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

from rondo.errors import ConfigError
from rondo_bench.sim.capacity import rough_capacity
from rondo_bench.sim.cluster import SimCluster
from rondo_bench.sim.goodput import Goodput, GoodputSearch
from rondo_bench.sim.options import add_options, cluster_of, workload_of
from rondo_bench.sim.summary import format_summary, summarize
from rondo_bench.sim.trial import attainment_of
from rondo_bench.sim.workload import make_workload

#: A search starts at this share of a rough capacity.
START_SHARE = 0.4


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds both commands."""
    simulate = commands.add_parser(
        "simulate",
        help="serve a workload on a simulated cluster and report latencies and attainment",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_options(simulate)
    simulate.add_argument("--timeline", action="store_true", help="keep KV use over time")
    simulate.set_defaults(run=run_simulate)
    goodput = commands.add_parser(
        "goodput",
        help="search the highest rate at which enough requests meet their SLO",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_options(goodput)
    goodput.add_argument("--target", type=float, default=0.99, help="attainment to reach")
    goodput.add_argument("--seeds", type=int, default=3, help="runs at each rate, from --seed on")
    goodput.add_argument(
        "--start", type=float, default=None, help="first rate of the scan; by default a guess"
    )
    goodput.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    goodput.set_defaults(run=run_goodput)


def run_simulate(args: argparse.Namespace) -> int:
    """One run; prints its summary."""
    spec = replace(cluster_of(args), timeline=args.timeline)
    arrivals = make_workload(workload_of(args, args.seed, args.rate))
    summary = summarize(SimCluster(spec).run(arrivals, args.seed))
    print(json.dumps(summary) if args.json else format_summary(summary))
    return 0


def run_goodput(args: argparse.Namespace) -> int:
    """A search; prints the rate, its interval and the attainment curve."""
    spec = cluster_of(args)
    if not 0 < args.target <= 1:
        raise ConfigError("--target", f"{args.target:g} is not above 0 and at most 1")
    if args.seeds < 1:
        raise ConfigError("--seeds", f"must be at least 1, not {args.seeds}")
    seeds = range(args.seed, args.seed + args.seeds)
    with ProcessPoolExecutor(max(1, min(args.jobs, args.seeds))) as pool:

        def measure(rate: float, seeds: Sequence[int]) -> list[float]:
            workloads = [workload_of(args, seed, rate) for seed in seeds]
            return list(pool.map(partial(attainment_of, spec), workloads))

        start = args.start
        if start is None:
            any_rate = args.rate or 1.0
            arrivals = make_workload(workload_of(args, args.seed, any_rate))
            start = START_SHARE * rough_capacity(spec, arrivals)
        found = GoodputSearch(measure, start, seeds).find(args.target)
    print(json.dumps(goodput_as_json(found)) if args.json else goodput_as_text(found))
    return 0


def goodput_as_json(found: Goodput) -> dict[str, object]:
    """A search's result with the names that other programs read."""
    return {
        "target": found.target,
        "rate": found.rate,
        "interval": [found.low, found.high],
        "dips": found.dips,
        "curve": [
            {"rate": p.rate, "attainment": p.attainment, "by_seed": list(p.by_seed)}
            for p in found.curve
        ],
    }


def goodput_as_text(found: Goodput) -> str:
    """A search's result for people."""
    lines = [
        f"goodput   {found.rate:.3f} requests/s at {found.target:.0%} attainment "
        f"(seeds: {found.low:.3f} to {found.high:.3f})"
    ]
    if found.dips:
        lines.append(
            f"dips      below the target also at {', '.join(f'{r:g}' for r in found.dips)}"
        )
    lines += [f"{point.rate:10.3f}  {point.attainment:8.2%}" for point in found.curve]
    return "\n".join(lines)
