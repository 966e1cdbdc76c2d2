"""TD-Pipe and its rivals on a real pipeline engine: a stage a core, one model, the same requests.

`rondo-bench tdpipe --real`; `real_bench` does the work. Light to import: the command line is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from rondo_bench.console import say
from rondo_bench.tdpipe.real_setup import RealOptions
from rondo_bench.tdpipe.simulated import NAMES


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `rondo-bench tdpipe --real`."""
    given = RealOptions()
    group = parser.add_argument_group("with --real")
    group.add_argument("--rounds", type=int, default=given.num_rounds, help="of each scheduler")
    group.add_argument("--requests", type=int, default=given.num_requests)
    group.add_argument("--stages", type=int, default=given.num_stages)
    group.add_argument("--cores", default=given.cores, help="of each stage, like 0,1")
    group.add_argument("--real-lengths", type=Path, default=given.lengths, help="file of lengths")
    group.add_argument("--length-scale", type=int, default=given.scale, help="divides lengths")
    group.add_argument("--pool-tokens", type=int, default=given.pool_tokens)
    group.add_argument("--step-tokens", type=int, default=given.prefill_tokens, help="of prefills")
    group.add_argument("--budgets", type=int, nargs="+", default=list(given.budgets))
    group.add_argument("--real-policies", nargs="+", choices=NAMES, default=list(NAMES))
    group.add_argument("--chart", type=Path, default=None, help="SVG file of the stages' timelines")


def run(args: argparse.Namespace) -> int:
    """`rondo-bench tdpipe --real`: figures as JSON on stdout, the rest on stderr.

    Gives 1 where a text is not what one process makes of its prompt.
    """
    from rondo_bench.tdpipe.real_bench import run_real, verdict  # loads torch

    options = RealOptions(
        lengths=args.real_lengths,
        num_requests=args.requests,
        num_rounds=args.rounds,
        num_stages=args.stages,
        cores=args.cores,
        scale=args.length_scale,
        pool_tokens=args.pool_tokens,
        prefill_tokens=args.step_tokens,
        budgets=tuple(args.budgets),
    )

    bench = run_real(options, args.real_policies, args.chart, say)
    for line in verdict(bench):
        say(line)
    print(msgspec.json.format(msgspec.json.encode(bench.figures())).decode())
    return 1 if bench.num_different else 0
