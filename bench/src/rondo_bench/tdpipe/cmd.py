"""rondo-bench tdpipe: schedulers of one pipeline, simulated or on a real engine."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from rondo.errors import ConfigError
from rondo_bench.console import positive, say
from rondo_bench.tdpipe import real
from rondo_bench.tdpipe.compare import compare
from rondo_bench.tdpipe.model import SHAPES
from rondo_bench.tdpipe.page import write_page
from rondo_bench.tdpipe.simulated import LENGTHS, NAMES, draw_requests
from rondo_bench.tdpipe.study import study_all


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "tdpipe",
        help="TD-Pipe against its rivals on one pipeline",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--sim", action="store_true", help="simulated L20s, P = 4")
    kind.add_argument("--real", action="store_true", help="the pipeline engine on this machine")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    group = parser.add_argument_group("with --sim")
    group.add_argument("--model", choices=list(SHAPES), default="qwen2.5-32b")
    group.add_argument("--lengths", type=Path, default=LENGTHS, help="length file with predictions")
    group.add_argument("--sim-requests", type=positive, default=5000)
    group.add_argument("--sim-stages", type=positive, default=4)
    group.add_argument("--max-prompt", type=positive, default=1024, help="longer ones are left out")
    group.add_argument("--seed", type=int, default=1)
    group.add_argument(
        "--write",
        type=Path,
        default=None,
        help="run the whole study, put its tables into this page",
    )
    real.add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs what was asked for; figures go to stdout, progress to stderr."""
    return real.run(args) if args.real else _simulate(args)


def _simulate(args: argparse.Namespace) -> int:
    if not args.lengths.is_file():
        raise ConfigError("--lengths", f"no file {args.lengths}")

    if args.write is not None:
        studies = study_all(
            args.lengths, args.sim_requests, args.max_prompt, args.seed, args.sim_stages, say
        )
        write_page(args.write, studies)
        return 0
    requests = draw_requests(args.lengths, args.sim_requests, args.max_prompt, args.seed)
    rows = compare(SHAPES[args.model], requests, args.sim_stages, say)
    figures = {name: rows[name].figures for name in NAMES}
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(figures), indent=1).decode())
        return 0
    for name, each in figures.items():
        print(
            f"{name:14}{each.tokens_per_s:8.0f} tokens/s, bubbles {each.bubble_share:6.1%}, "
            f"{each.phase_switches} phase switches, {each.recomputed} recomputed"
        )
    return 0
