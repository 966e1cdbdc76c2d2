"""rondo-bench chaos: programs are hurt under load; every request must end well all the same."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from rondo.errors import ConfigError
from rondo_bench.chaos.cluster import ClusterOptions
from rondo_bench.chaos.faults import KINDS
from rondo_bench.chaos.judge import passed
from rondo_bench.chaos.page import as_page
from rondo_bench.chaos.run import ChaosOptions, Phase, run_chaos
from rondo_bench.console import say

#: Figures of phases that add up.
SUMMED = (
    "seconds",
    "requests",
    "completed",
    "typed_errors",
    "broken_connections",
    "hung",
    "lost_tokens",
    "duplicated_tokens",
    "mismatched_texts",
    "bad_endings",
    "refused_connections",
    "tokens",
)
POSITIVE = (
    "seconds",
    "requests",
    "workers",
    "coordinators",
    "gateways",
    "period_s",
    "concurrency",
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "chaos",
        help="hurt programs of a live cluster under load, and check every answer",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="faults:\n" + "\n".join(f"  {n:18} {k.meaning}" for n, k in KINDS.items()),
    )
    add = parser.add_argument
    add("--seed", type=int, default=1, help="of prompts and of who is hit")
    add("--seconds", type=float, default=30.0, help="of load with faults; default 30")
    add("--requests", type=int, help="stop after so many, instead of after some seconds")
    add("--workers", type=int, default=6)
    add("--coordinators", type=int, help="default: as rondo up does")
    add("--gateways", type=int, help="default: as rondo up does")
    add("--faults", default="worker", help="with commas, or all; they take turns")
    add("--phases", action="store_true", help="each kind for itself first, then all together")
    add("--period-s", type=float, help="from one fault to the next; default: by kind")
    add("--concurrency", type=int, default=64, help="clients, each with one request at a time")
    add("--engine", choices=["emulated", "torch"], default="emulated")
    add("--json", action="store_true", help="print one JSON object")
    add("--keep", type=Path, help="folder for the cluster's logs; default: a temporary one")
    add("--write", type=Path, help="Markdown file to write, too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; 1 when an answer was wrong or missing, or something was left behind."""
    options = _options(args)
    reports = uvloop.run(run_chaos(options, say))
    total = summary(reports)
    if args.json:
        print(json.dumps(total))
    else:
        shown = {name: value for name, value in total.items() if name != "phases"}
        print("\n".join(f"{name:30} {value}" for name, value in shown.items()))
    if args.write:
        args.write.parent.mkdir(parents=True, exist_ok=True)
        args.write.write_text(as_page(total, " ".join(["rondo-bench", *sys.argv[1:]])))
    return 0 if total["passed"] else 1


def summary(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All phases as one report, with theirs in `phases`."""
    total: dict[str, Any] = {name: sum(one[name] for one in reports) for name in SUMMED}
    for name in ("faults", "members", "messages", "errors", "flaws"):
        counts: Counter[str] = Counter()
        for one in reports:
            counts.update(one[name])
        total[name] = dict(sorted(counts.items()))
    gaps: dict[str, list[float]] = {}
    for one in reports:
        for kind, values in one["admission_gaps_after_faults_s"].items():
            gaps.setdefault(kind, []).extend(values)
    total["admission_gaps_after_faults_s"] = gaps
    for name in reports[0]:
        if name.startswith(("answer_s", "inter_token_s", "longest", "whole_after")):
            total[name] = max((one[name] for one in reports if one[name] is not None), default=None)
    total["left_behind"] = "; ".join(one["left_behind"] for one in reports if one["left_behind"])
    total["passed"] = all(passed(one) and not one["left_behind"] for one in reports)
    return {**total, "phases": list(reports)}


def _options(args: argparse.Namespace) -> ChaosOptions:
    kinds = tuple(KINDS) if args.faults == "all" else tuple(args.faults.split(","))
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError("--faults", f"{kind!r} is none of {', '.join(KINDS)}")
    for name in POSITIVE:
        if (value := getattr(args, name)) is not None and value <= 0:
            raise ConfigError(f"--{name.replace('_', '-')}", "is not above 0")
    cluster = ClusterOptions(args.engine, args.workers, args.coordinators, args.gateways)
    sets = [(kind,) for kind in kinds] + ([kinds] if len(kinds) > 1 else [])
    sets = sets if args.phases else [kinds]
    phases = tuple(Phase(one, args.seconds / len(sets), args.requests) for one in sets)
    return ChaosOptions(cluster, phases, args.seed, args.concurrency, args.period_s, args.keep)
