"""rondo-bench load: requests to any OpenAI-compatible server, and what became of them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop

from rondo.errors import ConfigError
from rondo_bench.load.figures import as_line, as_table, summarize_outcomes
from rondo_bench.load.options import add_options, slo_of
from rondo_bench.load.outcomes import Outcome
from rondo_bench.load.page import render_run
from rondo_bench.load.run import FINE_RATIO, run_load, search_goodput
from rondo_bench.load.selftest import run_self_test
from rondo_bench.sim.commands import goodput_as_json, goodput_as_text


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "load",
        help="send a workload to an OpenAI-compatible server; latencies, attainment, goodput",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_options(parser)
    add = parser.add_argument
    add("--json", action="store_true", help="print one JSON object and nothing else")
    add("--out", type=Path, default=None, metavar="JSONL", help="a line for each request")
    add("--html", type=Path, default=None, metavar="FILE", help="a page with plots")
    add("--self-test", action="store_true", help="measure this client against a trivial server")
    add("--write", type=Path, default=None, help="Markdown file of the self-test to write")
    search = parser.add_argument_group("search").add_argument
    search("--goodput", action="store_true", help="search the highest rate that meets --target")
    search("--target", type=float, default=0.9, help="attainment to reach")
    search("--seeds", type=int, default=1, help="runs at each rate, from --seed on")
    search("--fine", type=float, default=FINE_RATIO, help="ratio at which the search stops")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0; 1 when not one request completed, or the run was given up."""
    if args.self_test:
        return _self_test(args)
    if not (args.lengths or args.trace or args.tokens):
        raise ConfigError("--lengths", "give --lengths, --trace or --tokens")
    if args.goodput:
        return _goodput(args)
    if args.lengths and args.rate is None and args.concurrency is None and not args.ramp:
        raise ConfigError("--rate", "needed with --lengths, or --concurrency, or --ramp")
    outcomes = uvloop.run(run_load(args, args.seed, args.rate))
    summary = summarize_outcomes(outcomes, slo_of(args), args.seed)
    if args.out:
        _write_lines(args.out, outcomes)
    if args.html:
        args.html.parent.mkdir(parents=True, exist_ok=True)
        args.html.write_text(render_run(outcomes, summary, args.base_url))
    print(json.dumps(summary) if args.json else as_table(summary))
    if summary["unfinished"]:
        first = next(one.error for one in outcomes if one.ending.is_failure and one.error)
        print(
            f"given up after {sum(summary['errors'].values())} failures: {first}", file=sys.stderr
        )
    return 0 if summary["completed"] and not summary["unfinished"] else 1


def _goodput(args: argparse.Namespace) -> int:
    if not 0 < args.target <= 1:
        raise ConfigError("--target", f"{args.target:g} is not above 0 and at most 1")
    if args.seeds < 1:
        raise ConfigError("--seeds", f"must be at least 1, not {args.seeds}")
    if not args.fine > 1:
        raise ConfigError("--fine", f"must be above 1, not {args.fine:g}")
    if args.concurrency is not None:
        raise ConfigError("--concurrency", "a goodput search needs an open loop")
    found = search_goodput(args)
    print(json.dumps(goodput_as_json(found)) if args.json else goodput_as_text(found))
    return 0


def _self_test(args: argparse.Namespace) -> int:
    report, figures = uvloop.run(run_self_test())
    print(json.dumps(figures) if args.json else report)
    if args.write:
        args.write.parent.mkdir(parents=True, exist_ok=True)
        args.write.write_text(report + "\n")
    return 0


def _write_lines(path: Path, outcomes: Sequence[Outcome]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = b"\n".join(msgspec.json.encode(as_line(one)) for one in outcomes)
    path.write_bytes(lines + b"\n")
