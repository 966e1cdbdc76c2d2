"""rondo-bench chaos: programs are killed under load; every request must end well all the same."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop

from rondo.errors import ConfigError
from rondo.local.model_folder import find_model
from rondo.local.run_dir import read_state
from rondo.perf.profile import LatencyProfile
from rondo_bench.chaos.faults import PROGRAMS, inject
from rondo_bench.chaos.load import Ending, Outcome, run_clients
from rondo_bench.local_cluster import local_cluster
from rondo_bench.workload import spread_lengths

#: Emulated instances: answers take one to three seconds, long enough to be hit.
PROFILE = LatencyProfile(
    name="chaos",
    source="made up: 10 ms prefill floor, 12 ms decode",
    prefill_floor_ms=(10.0, 0.0),
    prefill_line_ms=(1.0, 0.02),
    prefill_attn_ms=(0.0, 0.0, 0.0),
    decode_ms=(12.0, 0.02, 0.0),
    num_blocks=4096,
)
#: Different requests; their answers without faults are what must come under faults.
NUM_ITEMS = 64
PROMPT_TOKENS, MEAN_OUTPUT_TOKENS = 40, 150
VOCAB_SIZE = 160
#: A request that takes longer hangs.
HUNG_S = 120.0


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "chaos",
        help="kill programs of a live cluster under load, and check every answer",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--seed", type=int, default=1, help="of prompts and of who is killed")
    add("--seconds", type=float, default=30.0, help="of load with faults")
    add("--workers", type=int, default=6)
    add("--faults", default="worker", help=f"with commas, of: {', '.join(PROGRAMS)}")
    add("--period-s", type=float, default=2.0, help="from one fault to the next")
    add("--concurrency", type=int, default=64, help="clients, each with one request at a time")
    add("--engine", choices=["emulated", "torch"], default="emulated")
    add("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs it; 1 when a request hung or a text was wrong."""
    kinds = args.faults.split(",")
    for kind in kinds:
        if kind not in PROGRAMS:
            raise ConfigError("--faults", f"{kind!r} is none of {', '.join(PROGRAMS)}")
    for name in ("seconds", "workers", "period_s", "concurrency"):
        if getattr(args, name) <= 0:
            raise ConfigError(f"--{name.replace('_', '-')}", "is not above 0")
    report = uvloop.run(_run(args, kinds))
    if args.json:
        print(json.dumps(report))
    else:
        print("\n".join(f"{name:24} {value}" for name, value in report.items()))
    return 1 if report["hung"] or report["mismatched_texts"] else 0


async def _run(args: argparse.Namespace, kinds: Sequence[str]) -> dict[str, object]:
    model = find_model(None, weights=args.engine != "emulated")
    items = spread_lengths(NUM_ITEMS, PROMPT_TOKENS, MEAN_OUTPUT_TOKENS, VOCAB_SIZE, args.seed)
    faults: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        profile, run_dir = Path(scratch) / "profile.json", Path(scratch) / "run"
        profile.write_bytes(msgspec.json.encode(PROFILE))
        options = ["--engine", args.engine, "--workers", str(args.workers)]
        options += ["--profile", str(profile)] if args.engine == "emulated" else []
        async with local_cluster(run_dir, options, {}) as url:
            expected = await run_clients(
                lambda: url, model.name, items, min(args.concurrency, 16), HUNG_S
            )
            if any(outcome.ending is not Ending.COMPLETED for outcome in expected):
                raise ConfigError("chaos", "the cluster does not answer even without faults")
            pid = read_state(run_dir).pid
            injector = asyncio.create_task(inject(pid, kinds, args.period_s, args.seed, faults))
            try:
                outcomes = await run_clients(
                    lambda: url,
                    model.name,
                    items,
                    args.concurrency,
                    HUNG_S,
                    time.monotonic() + args.seconds,
                )
            finally:
                injector.cancel()
                await asyncio.gather(injector, return_exceptions=True)
    return judge(expected, outcomes, faults)


def judge(
    expected: Sequence[Outcome], outcomes: Sequence[Outcome], faults: Counter[str]
) -> dict[str, object]:
    """The report: endings, and completed answers that are not what they are without faults."""
    texts = {outcome.item.request_id: outcome.text for outcome in expected}
    endings = Counter(outcome.ending for outcome in outcomes)
    completed = [outcome for outcome in outcomes if outcome.ending is Ending.COMPLETED]
    short = [one.item.output_tokens - (one.num_tokens or 0) for one in completed]
    firsts = sorted(one.first_token_s for one in outcomes if one.first_token_s)
    gaps_s = [later - earlier for earlier, later in zip(firsts, firsts[1:], strict=False)]
    return {
        "requests": len(outcomes),
        **{ending.value: endings[ending] for ending in Ending},
        "lost_tokens": sum(max(0, missing) for missing in short),
        "duplicated_tokens": sum(max(0, -missing) for missing in short),
        "mismatched_texts": sum(one.text != texts[one.item.request_id] for one in completed),
        "faults": dict(sorted(faults.items())),
        "longest_admission_gap_s": round(max(gaps_s, default=0.0), 3),
        "errors": dict(Counter(one.error for one in outcomes if one.error).most_common(5)),
    }
