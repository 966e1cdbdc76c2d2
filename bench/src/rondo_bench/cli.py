"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import uvloop

from rondo.errors import ConfigError, RondoError
from rondo_bench import profile_cmd, replay_cmd
from rondo_bench.chaos import cmd as chaos_cmd
from rondo_bench.chaos import slow_clients
from rondo_bench.console import positive
from rondo_bench.control import cmd as control_cmd
from rondo_bench.econoserve import cmd as econoserve_cmd
from rondo_bench.elastic import cmd as elastic_cmd
from rondo_bench.engines import cmd as engines_cmd
from rondo_bench.experiments import cmd as experiment_cmd
from rondo_bench.goodput_real import cmd as real_cmd
from rondo_bench.latency import LatencyOptions, run_latency
from rondo_bench.lengths import cmd as lengths_cmd
from rondo_bench.load import cmd as load_cmd
from rondo_bench.parity import cmd as parity_cmd
from rondo_bench.report import cmd as report_cmd
from rondo_bench.sim import commands as sim_commands
from rondo_bench.slack import cmd as slack_cmd
from rondo_bench.streaming import cmd as streaming_cmd
from rondo_bench.tdpipe import cmd as tdpipe_cmd


def main() -> int:
    """Entry point; 0 on success, 1 when a benchmark failed, 2 for a wrong option."""
    args = _parser().parse_args()
    try:
        code: int = args.run(args)
    except ConfigError as error:
        print(f"rondo-bench: {error}", file=sys.stderr)
        return 2
    except RondoError as error:
        print(f"rondo-bench: {error}", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rondo-bench", description="Benchmarks of Rondo.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sim_commands.add_parsers(commands)
    replay_cmd.add_parser(commands)
    profile_cmd.add_parser(commands)
    engines_cmd.add_parser(commands)
    experiment_cmd.add_parser(commands)
    parity_cmd.add_parser(commands)
    chaos_cmd.add_parser(commands)
    load_cmd.add_parser(commands)
    lengths_cmd.add_parser(commands)
    streaming_cmd.add_parser(commands)
    control_cmd.add_parser(commands)
    slow_clients.add_parser(commands)
    elastic_cmd.add_parser(commands)
    real_cmd.add_parser(commands)
    tdpipe_cmd.add_parser(commands)
    econoserve_cmd.add_parser(commands)
    slack_cmd.add_parser(commands)
    report_cmd.add_parser(commands)
    latency = commands.add_parser(
        "latency",
        help="what HTTP, bus and services add to the engine's TTFT and inter-token time",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    latency.add_argument("--engines", nargs="+", choices=["emulated", "torch"], default=None)
    latency.add_argument("--concurrency", nargs="+", type=positive, default=[1, 16])
    latency.add_argument("--requests", type=positive, default=64, help="in each round")
    latency.add_argument("--rounds", type=positive, default=3, help="of each side, alternating")
    latency.add_argument("--prompt-tokens", type=positive, default=64)
    latency.add_argument("--output-tokens", type=positive, default=64, help="mean")
    latency.add_argument("--model", default=None, help="Hugging Face folder (default: rondo-tiny)")
    latency.add_argument("--write", type=Path, default=None, help="Markdown file to write, too")
    latency.set_defaults(run=_latency)
    return parser


def _latency(args: argparse.Namespace) -> int:
    options = LatencyOptions(
        engines=tuple(args.engines or ("emulated", "torch")),
        concurrency=tuple(args.concurrency),
        num_requests=args.requests,
        num_rounds=args.rounds,
        prompt_tokens=args.prompt_tokens,
        output_tokens=args.output_tokens,
        model=args.model,
    )
    report = uvloop.run(run_latency(options))
    print(report)
    if args.write:
        args.write.parent.mkdir(parents=True, exist_ok=True)
        args.write.write_text(report + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
