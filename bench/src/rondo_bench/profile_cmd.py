"""rondo-bench profile: measures a live engine and writes its latency profile."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from statistics import mean

import msgspec

from rondo.errors import ConfigError
from rondo.local.model_folder import find_model
from rondo.metrics.lifecycle import percentile
from rondo_worker.engines.base import Engine
from rondo_worker.engines.calibrate import fit_errors, fit_profile, measure


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "profile",
        help="measure the torch engine with a model and write a latency profile",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default=None, help="Hugging Face folder (default: rondo-tiny)")
    parser.add_argument("--engine", default="torch", choices=["torch"])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--budget-s", type=float, default=30.0, help="about how long to measure")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures, fits, writes, and prints how well the closed form fits."""
    if args.budget_s <= 0:
        raise ConfigError("--budget-s", f"must be above 0, not {args.budget_s:g}")
    model = find_model(args.model, weights=True)
    engine = _load(model)
    try:
        samples = measure(engine, budget_s=args.budget_s)
        profile = fit_profile(engine.spec, samples)
    finally:
        engine.close()
    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    machine = f"{_processor()}, {os.cpu_count()} cores"
    versions = f"Python {platform.python_version()}, torch {version('torch')}"
    source = (
        f"measured by rondo-bench profile {version('rondo-bench')} on {date}: "
        f"{args.engine} engine, {model.name}, {machine}, {versions}"
    )
    profile = msgspec.structs.replace(profile, source=source)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    fields = {k: v for k, v in msgspec.to_builtins(profile).items() if v is not None}
    args.out.write_text(json.dumps(fields, indent=2) + "\n")
    print(f"{args.out}: {source}")
    for kind, errors in fit_errors(profile, samples).items():
        worst = percentile(errors, 0.95)
        print(f"{kind:8} {len(errors):3} cases  error mean {mean(errors):6.1%}  p95 {worst:6.1%}")
    return 0


def _load(model: Path) -> Engine:
    from rondo_worker.engines.torch import TorchEngine  # takes seconds; only where it is needed

    return TorchEngine.load(model)


def _processor() -> str:
    """The processor as Linux names it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
