"""rondo-bench econoserve: instance policies on one instance, simulated or on a real engine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec

from rondo.errors import ConfigError
from rondo_bench.console import positive, say
from rondo_bench.econoserve import real
from rondo_bench.econoserve.search import POLICIES
from rondo_bench.econoserve.study import LEVELS_S, Scope, compare, figures_of_policies
from rondo_bench.econoserve.whole import write_all
from rondo_bench.econoserve.workloads import LENGTHS, WORKLOADS


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "econoserve",
        help="EconoServe against its rivals on one instance",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--sim", action="store_true", help="simulated: Llama-2-13B on one L20")
    kind.add_argument("--real", action="store_true", help="the torch engine on this machine")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    group = parser.add_argument_group("with --sim")
    group.add_argument("--workload", choices=list(WORKLOADS), default="sharegpt")
    group.add_argument("--lengths", type=Path, default=LENGTHS, help="folder of length files")
    group.add_argument(
        "--seconds", type=positive, default=800, help="for which requests come in a run"
    )
    group.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="one run each")
    group.add_argument(
        "--level", type=float, default=LEVELS_S[0], help="s per token at which rates are compared"
    )
    group.add_argument("--processes", type=positive, default=os.cpu_count() or 1)
    group.add_argument(
        "--write", type=Path, default=None, help="run everything, put its tables into this page"
    )
    group.add_argument(
        "--real-record", type=Path, default=None, help="of --real --save, for the page"
    )
    real.add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs what was asked for; figures go to stdout, progress to stderr."""
    return real.run(args, POLICIES) if args.real else _simulate(args)


def _simulate(args: argparse.Namespace) -> int:
    if not args.lengths.is_dir():
        raise ConfigError("--lengths", f"no folder {args.lengths}")
    if not args.level > 0:
        raise ConfigError("--level", f"must be above 0, not {args.level:g}")
    scope = Scope(args.lengths, args.seconds, tuple(args.seeds))

    with _processes(args.processes) as pool:
        if args.write is not None:
            write_all(args.write, scope, args.level, args.real_record, pool, say)
            return 0
        studies = compare(args.workload, scope, args.level, pool, say)
    figures = figures_of_policies(studies, args.level)
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(figures), indent=1).decode())
        return 0
    for name, each in figures.items():
        print(
            f"{name:14}{each.requests_per_s_at_equal_latency:8.2f} requests/s at {args.level:g} "
            f"s/token, {each.saturated_requests_per_s:.2f} saturated, "
            f"SLO {each.slo_satisfaction:.1%}, {each.preempted_share:.1%} preempted, "
            f"KV {each.kv_used_share:.1%} used, {each.forward_tokens:.0f} tokens a step"
        )
    return 0


@contextmanager
def _processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that are ended at once when the command is."""
    pool = ProcessPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
