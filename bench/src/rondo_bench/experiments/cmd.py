"""rondo-bench experiment: the evaluation, one part at a time."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rondo.errors import ConfigError
from rondo_bench.experiments.beyond import run_beyond, run_mitosis
from rondo_bench.experiments.cases import DATASETS, GPUS, MOST_REQUESTS, SEEDS, Folders
from rondo_bench.experiments.grid import TARGETS, all_cases, run_grid
from rondo_bench.experiments.instances import run_instances
from rondo_bench.experiments.lengths import RUN_SEEDS, run_lengths
from rondo_bench.experiments.results import with_others, write
from rondo_bench.experiments.search import Record
from rondo_bench.experiments.speed import run_speed
from rondo_bench.experiments.sweeps import SWEEPS, SYSTEMS, run_sweep

NAMES = ("grid", *SWEEPS, "lengths", "instances", "beyond", "mitosis", "speed")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "experiment",
        help="run one experiment of the evaluation and write its result file",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--gpus", nargs="+", choices=GPUS, default=list(GPUS), help="of the grid")
    names = [item.name for item in DATASETS]
    parser.add_argument("--datasets", nargs="+", choices=names, default=names, help="of the grid")
    parser.add_argument(
        "--targets", nargs="+", type=float, default=list(TARGETS), help="of the grid"
    )
    parser.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="of a sweep"
    )
    parser.add_argument("--lengths-dir", type=Path, default=Path("../shared/data/lengths"))
    parser.add_argument("--results", type=Path, default=Path("docs/results/sim"))
    parser.add_argument("--cache", type=Path, default=Path(".cache/experiments"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the experiment; searches that the cache knows are not run again."""
    folders = Folders(args.lengths_dir, args.results, args.cache)
    for item in DATASETS:
        if not (folders.lengths / item.file).is_file():
            raise ConfigError("--lengths-dir", f"no file {folders.lengths / item.file}")
    began_s = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began_s:7.0f} s  {text}", file=sys.stderr, flush=True)

    path = write(
        folders.results,
        args.name,
        _records(args, folders, say),
        seeds=RUN_SEEDS if args.name in ("lengths", "instances") else SEEDS,
        requests=MOST_REQUESTS,
        options=_sweep_options(args),
    )
    print(path)
    return 0


def _records(
    args: argparse.Namespace, folders: Folders, say: Callable[[str], None]
) -> list[Record]:
    if args.name == "grid":
        cases = all_cases(args.gpus, args.datasets)
        records = run_grid(cases, args.targets, folders, args.jobs, say)
        return with_others(folders.results, records)
    if args.name == "lengths":
        return run_lengths(folders, args.jobs, say)
    if args.name == "instances":
        return run_instances(folders, args.jobs, say)
    if args.name == "beyond":
        return run_beyond(folders, args.jobs, say)
    if args.name == "mitosis":
        return run_mitosis(folders, say)
    if args.name == "speed":
        return run_speed(folders, say)
    return run_sweep(args.name, args.systems, folders, args.jobs, say)


def _sweep_options(args: argparse.Namespace) -> list[str]:
    """What a result of fewer systems than all says of its command."""
    whole = args.name not in SWEEPS or set(args.systems) == set(SYSTEMS)
    return [] if whole else ["--systems", *args.systems]
