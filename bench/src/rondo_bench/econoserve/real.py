"""EconoServe and its rivals on the real torch engine: two models on this machine's CPU.

`rondo-bench econoserve --real`; `real_bench` does the work. Light to import: the command line is.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rondo_bench.console import positive, say
from rondo_bench.machine import machine

if TYPE_CHECKING:
    from rondo_bench.econoserve.drive import Run
    from rondo_bench.econoserve.real_record import RealModel, RealRecord

#: The bars: EconoServe over first come, first served, at equal latency and saturated.
AT_LEVEL, SATURATED = 1.25, 1.0
MODELS = ("random", "tiny")
DRAWN = ("block-growth", "econoserve")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `rondo-bench econoserve --real`."""
    group = parser.add_argument_group("with --real")
    group.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    group.add_argument("--rounds", type=positive, default=5, help="of each policy")
    group.add_argument("--threads", type=positive, default=1, help="of torch")
    group.add_argument("--chart", type=Path, default=None, help="SVG file of the KV pool over time")
    group.add_argument("--save", type=Path, default=None, help="file for the page's section")


def run(args: argparse.Namespace, names: Sequence[str]) -> int:
    """`rondo-bench econoserve --real`: figures as JSON on stdout, the rest on stderr.

    Gives 1 where a text differs between policies.
    """
    record = _measure(args, names)
    for line in verdict(record):
        say(line)
    if args.save is not None:
        record.save(args.save)
    print(msgspec.json.format(msgspec.json.encode(record.printed()), indent=1).decode())
    return 1 if _num_different(record) else 0


def verdict(record: RealRecord) -> list[str]:
    """How the figures stand to the bars, a line each."""
    from rondo_bench.econoserve.real_page import ratios

    lines = [f"texts that differ between policies: {_num_different(record)} (bar: 0)"]
    for name, model in record.models.items():
        for rival, (at_level, saturated) in ratios(model).items():
            lines.append(
                f"{name}: econoserve over {rival}: {at_level:.3f} at equal latency (bar: at least "
                f"{AT_LEVEL}), {saturated:.3f} saturated (bar: at least {SATURATED:g})"
            )
    return lines


def _measure(args: argparse.Namespace, names: Sequence[str]) -> RealRecord:
    from rondo_bench.econoserve.real_bench import run_model  # loads torch
    from rondo_bench.econoserve.real_chart import draw_pools
    from rondo_bench.econoserve.real_record import RealRecord
    from rondo_bench.econoserve.real_setup import RealOptions

    options = RealOptions(num_rounds=args.rounds, num_threads=args.threads)
    models: dict[str, RealModel] = {}
    pools: dict[str, Run] = {}
    for name in args.models:
        with tempfile.TemporaryDirectory(prefix="rondo-econoserve-") as made:
            bench = run_model(name, options, names, Path(made), say)
        models[name] = bench.result()
        pools |= {f"{name}: {each}": bench.last[each] for each in DRAWN if each in bench.last}
    if args.chart is not None:
        draw_pools(pools, args.chart)
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return RealRecord(machine=machine(), date=today, num_rounds=args.rounds, models=models)


def _num_different(record: RealRecord) -> int:
    policies = (each for model in record.models.values() for each in model.policies.values())
    return sum(each.different_texts for each in policies)
