"""rondo-bench experiment: the evaluation, one part at a time."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from rondo.errors import ConfigError
from rondo_bench.experiments.beyond import run_beyond, run_mitosis
from rondo_bench.experiments.cases import DATASETS, GPUS, MOST_REQUESTS, SEEDS, Folders
from rondo_bench.experiments.grid import TARGETS, all_cases, run_grid
from rondo_bench.experiments.instances import run_instances
from rondo_bench.experiments.lengths import RUN_SEEDS, run_lengths
from rondo_bench.experiments.results import with_others, write
from rondo_bench.experiments.speed import run_speed
from rondo_bench.experiments.sweeps import SWEEPS, run_sweep

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

    if args.name == "grid":
        cases = all_cases(args.gpus, args.datasets)
        records = run_grid(cases, args.targets, folders, args.jobs, say)
        records = with_others(folders.results, records)
    elif args.name == "lengths":
        records = run_lengths(folders, args.jobs, say)
    elif args.name == "instances":
        records = run_instances(folders, args.jobs, say)
    elif args.name == "beyond":
        records = run_beyond(folders, args.jobs, say)
    elif args.name == "mitosis":
        records = run_mitosis(folders, say)
    elif args.name == "speed":
        records = run_speed(folders, say)
    else:
        records = run_sweep(args.name, folders, args.jobs, say)
    seeds = RUN_SEEDS if args.name in ("lengths", "instances") else SEEDS
    path = write(folders.results, args.name, records, seeds=seeds, requests=MOST_REQUESTS)
    print(path)
    return 0
