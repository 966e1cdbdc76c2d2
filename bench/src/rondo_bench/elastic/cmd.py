"""rondo-bench elastic: instances come and go with the load, and what clients see of it."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import uvloop

from rondo.bus.tasks import end_task
from rondo.errors import ConfigError
from rondo.local.model_folder import find_model
from rondo.local.run_dir import read_state
from rondo.perf.profile import LatencyProfile
from rondo.types import Slo
from rondo_bench.elastic.report import chart, figures, page, reversals
from rondo_bench.elastic.watch import Watch
from rondo_bench.load.client import LoadClient, RunOptions, Target
from rondo_bench.load.outcomes import Outcome
from rondo_bench.load.prompts import BodyShape
from rondo_bench.local_cluster import local_cluster
from rondo_bench.sim.arrivals import RateCurve, curve_arrivals
from rondo_bench.sim.records import Arrival

#: Small on purpose: some 3 requests/s an instance, so that the machine is not the limit.
PROFILE = LatencyProfile(
    name="elastic",
    source="made up: 20 ms decode and 5 ms for each sequence",
    prefill_floor_ms=(25.0, 0.0),
    prefill_line_ms=(15.0, 0.5),
    prefill_attn_ms=(0.0, 0.0, 0.0),
    decode_ms=(20.0, 5.0, 0.0),
    num_blocks=4096,
)
SLO = Slo(ttft_s=1.5, tpot_s=0.07)
PROMPT_TOKENS, OUTPUT_TOKENS = 60, 40
SETTLE_S = 5.0
CURVE = "0:5,60:5,240:24,360:24,540:5,1140:5"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "elastic",
        help="a live cluster whose instances follow a load that rises and falls",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--curve", default=CURVE, help="offered load: second:requests/s, with commas, straight")
    add("--least", type=int, default=4, help="instances")
    add("--most", type=int, default=14, help="instances")
    add("--lower", type=int, default=6, help="least of a macro-instance that has a sibling")
    add("--upper", type=int, default=11, help="most of a macro-instance")
    add("--window-s", type=float, default=5.0, help="load is judged over so long")
    add("--cooldown-s", type=float, default=10.0, help="from one change to the next, at least")
    add("--seed", type=int, default=1)
    add("--run-dir", type=Path, help="of the cluster, to look at its logs (default: a passing one)")
    add("--write", type=Path, help="Markdown page to write; the chart beside it as .svg")
    add("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; 1 when a request was dropped."""
    curve = parse_curve(args.curve)
    found, watch, outcomes = uvloop.run(_run(args, curve))
    if args.write:
        machine = (
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        )
        image = args.write.with_suffix(".svg")
        chart(watch, outcomes, SLO, curve).savefig(image)
        args.write.write_text(page(found, watch, _command(args), machine, image.name))
    if args.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name:24} {value}" for name, value in found.items()))
    return 1 if found["dropped"] else 0


def parse_curve(text: str) -> RateCurve:
    """`second:rate,second:rate,...`.

    Raises:
        ConfigError: it is no such list.
    """
    try:
        points = [tuple(map(float, pair.split(":"))) for pair in text.split(",")]
        return RateCurve(points=tuple((at_s, rate) for at_s, rate in points))
    except ValueError as error:
        raise ConfigError("--curve", f"{text!r} is no list of second:rate") from error


async def _run(
    args: argparse.Namespace, curve: RateCurve
) -> tuple[dict[str, object], Watch, list[Outcome]]:
    model = find_model(None, weights=False)
    rng = np.random.default_rng(args.seed)
    arrivals = [
        Arrival(
            request_id=f"r{index}",
            at_s=float(at_s),
            prompt_tokens=int(rng.integers(PROMPT_TOKENS // 2, PROMPT_TOKENS * 3 // 2)),
            output_tokens=int(rng.integers(OUTPUT_TOKENS // 2, OUTPUT_TOKENS * 3 // 2)),
        )
        for index, at_s in enumerate(curve_arrivals(rng, curve))
    ]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        profile, run_dir = Path(scratch) / "profile.json", args.run_dir or Path(scratch) / "run"
        profile.write_bytes(msgspec.json.encode(PROFILE))
        options = ["--engine", "emulated", "--workers", str(args.least)]
        options += ["--scale", f"{args.least}:{args.most}", "--profile", str(profile)]
        async with local_cluster(run_dir, options, _env(args)) as url:
            await asyncio.sleep(SETTLE_S)
            watch = Watch(time.monotonic())
            task = asyncio.create_task(watch.run(read_state(run_dir).nats_url))
            try:
                shape = BodyShape(model=model.name, send_slo=True)
                async with LoadClient(Target(base_url=url, shape=shape, slo=SLO)) as client:
                    outcomes = await client.open_loop(arrivals, RunOptions(seed=args.seed))
            finally:
                await end_task(task)
    found = figures(watch, outcomes, SLO)
    found["longest_constant_stretch"] = _constant(curve, watch)
    return found, watch, outcomes


def _env(args: argparse.Namespace) -> dict[str, str]:
    return {
        "NATS_URL": "",
        "RONDO_MACRO_LOWER": str(args.lower),
        "RONDO_MACRO_UPPER": str(args.upper),
        "RONDO_SCALING_WINDOW_S": str(args.window_s),
        "RONDO_SCALING_COOLDOWN_S": str(args.cooldown_s),
        "RONDO_LOG_LEVEL": "WARNING",
    }


def _constant(curve: RateCurve, watch: Watch) -> str:
    """Whether the size came to rest where the load stayed the same for longest."""
    flat = [(b[0] - a[0], a[0], b[0]) for a, b in pairwise(curve.points) if a[1] == b[1]]
    if not flat:
        return "none"
    length_s, from_s, to_s = max(flat)
    return f"{length_s:g} s: {reversals(watch.samples, from_s, to_s)} changes of direction"


def _command(args: argparse.Namespace) -> str:
    names = ("curve", "least", "most", "lower", "upper", "window_s", "cooldown_s", "seed")
    options = [f"--{name.replace('_', '-')} {getattr(args, name)}" for name in names]
    return " ".join(["rondo-bench elastic", *options])
