"""rondo-bench real: goodput of Rondo and of the same engines served plainly, side by side."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

import uvloop

from rondo.errors import ConfigError
from rondo_bench.console import say
from rondo_bench.engines.cmd import native_dtype
from rondo_bench.engines.compare import python_of
from rondo_bench.engines.shape import Shape
from rondo_bench.goodput_real.compare import Options, compare
from rondo_bench.goodput_real.page import as_markdown
from rondo_bench.goodput_real.records import Header, Store
from rondo_bench.goodput_real.sides import Setup, Side, parse_side
from rondo_bench.goodput_real.versions import versions_of
from rondo_bench.goodput_real.workloads import WORKLOADS
from rondo_bench.machine import machine

#: What is compared unless `--sides` says otherwise.
SIDES = {
    "vllm": ("padg", "padg:0.9", "vllm", "vllm:128"),
    "torch": ("padg", "padg:0.9", "nodg-jsq", "chunked-jsq"),
    "emulated": ("padg", "chunked-jsq"),
}
NAMES = [one.name for one in WORKLOADS]
#: One process an instance, one core each.
NUM_INSTANCES = 2


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "real",
        help="goodput of two instances, Rondo's and plain vLLM's, on real engines side by side",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--engine", choices=list(SIDES), default="vllm", help="emulated only tries this command")
    add("--sides", nargs="+", default=None, metavar="SIDE", help="POLICY[:MARGIN], vllm[:TOKENS]")
    add("--workloads", nargs="+", choices=NAMES, default=["longbench", "sharegpt", "alpaca"])
    add("--targets", nargs="+", type=float, default=[0.9, 0.99], metavar="SHARE")
    add("--runs", type=int, default=5, metavar="N", help="seeds: a search each, of several rates")
    add("--budget-s", type=float, default=1800.0, metavar="X", help="stop after this; go on later")
    add("--run-s", type=float, default=15.0, metavar="X", help="length of a run")
    add("--settle-s", type=float, default=5.0, metavar="X", help="before it, not counted")
    add("--scale", type=float, default=0.125, metavar="F", help="of prompt and answer lengths")
    add("--ratio", type=float, default=1.15, metavar="Q", help="between neighbouring rates")
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="of all sides")
    add("--compiled", action="store_true", help="let vLLM compile the model, on all sides")
    add("--kv-mib", type=int, default=1024, metavar="N", help="KV pool of an instance")
    add("--lengths-dir", type=Path, default=Path("../shared/data/lengths"))
    add("--runs-file", type=Path, default=None, metavar="JSONL", help="default: beside --write")
    add("--work", type=Path, default=Path(".rondo/real"), help="folder for model and logs")
    add("--journal", action="store_true", help="clusters keep decision journals below --work")
    add("--write", type=Path, default=Path("docs/results/real.md"), help="the page")
    add("--page-only", action="store_true", help="make the page of the runs that are there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures what is missing and writes the page; 1 when the time was over before the end."""
    _check(args)
    sides = [parse_side(name) for name in dict.fromkeys(args.sides or SIDES[args.engine])]
    path = args.runs_file or args.write.parent / "real" / f"{args.engine}.jsonl"
    store = Store(path, _header(args, sides))
    # The page is of all files there: better refused now than after an hour.
    others = [other for other in sorted(path.parent.glob("*.jsonl")) if other != path]
    stores = [store, *(Store.open(other) for other in others)]
    done = True
    if not args.page_only:
        options = _options(args, sides)
        try:
            done = uvloop.run(compare(options, store, say))
        except asyncio.CancelledError:
            return 1
        say("all runs are there" if done else "the time is over; the same command goes on")
    page = as_markdown(stores, args.targets, _spelled(args, sides))
    print(page)
    args.write.parent.mkdir(parents=True, exist_ok=True)
    args.write.write_text(page)
    return 0 if done else 1


def _header(args: argparse.Namespace, sides: list[Side]) -> Header:
    return Header(
        engine=args.engine,
        dtype=native_dtype() if args.dtype == "auto" else args.dtype,
        compiled=args.compiled,
        kv_mib=args.kv_mib,
        scale=args.scale,
        settle_s=args.settle_s,
        run_s=args.run_s,
        ratio=args.ratio,
        machine=machine(),
        versions=versions_of([python_of("vllm" if s.is_plain else args.engine) for s in sides]),
    )


def _options(args: argparse.Namespace, sides: list[Side]) -> Options:
    cores = sorted(os.sched_getaffinity(0))[:NUM_INSTANCES]
    if len(cores) < NUM_INSTANCES:
        raise ConfigError("--engine", f"needs {NUM_INSTANCES} cores, one for each instance")
    work = args.work.absolute()
    return Options(
        sides=sides,
        workloads=[one for name in args.workloads for one in WORKLOADS if one.name == name],
        targets=sorted(args.targets),
        num_seeds=args.runs,
        budget_s=args.budget_s,
        lengths=args.lengths_dir,
        setup=Setup(
            engine=args.engine,
            dtype=native_dtype() if args.dtype == "auto" else args.dtype,
            compiled=args.compiled,
            kv_mib=args.kv_mib,
            cores=tuple(cores),
            model=work / "llama-134m",
            work=work,
            journal=args.journal,
        ),
        shape=Shape(),
    )


def _check(args: argparse.Namespace) -> None:
    for name in ("runs", "kv_mib"):
        if getattr(args, name) < 1:
            raise ConfigError(_option(name), "must be at least 1")
    for name in ("budget_s", "run_s", "scale"):
        if not getattr(args, name) > 0:
            raise ConfigError(_option(name), "must be above 0")
    if not args.settle_s >= 0:
        raise ConfigError("--settle-s", "must be 0 or more")
    if not args.ratio > 1:
        raise ConfigError("--ratio", "must be above 1")
    if not all(0 < target < 1 for target in args.targets):
        raise ConfigError("--targets", "each is above 0 and below 1")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _spelled(args: argparse.Namespace, sides: list[Side]) -> str:
    words = [f"rondo-bench real --engine {args.engine} --sides {' '.join(s.name for s in sides)}"]
    words.append(f"--workloads {' '.join(args.workloads)} --runs {args.runs}")
    words.append(f"--run-s {args.run_s:g} --settle-s {args.settle_s:g} --scale {args.scale:g}")
    words.append(f"--ratio {args.ratio:g}")
    return " ".join([*words, *(["--compiled"] if args.compiled else [])])
