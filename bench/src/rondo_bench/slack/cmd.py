"""rondo-bench slack: online latencies with and without a batch in the slack, and its tokens."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec

from rondo.errors import ConfigError
from rondo.perf.profile import load_profile
from rondo.policy.catalog import LIVE_POLICY_NAMES, PolicySettings
from rondo.policy.macro import QueueSettings
from rondo.types import Slo
from rondo_bench.sim.capacity import rough_capacity
from rondo_bench.sim.commands import START_SHARE
from rondo_bench.sim.goodput import GoodputSearch
from rondo_bench.sim.spec import ClusterSpec
from rondo_bench.sim.trial import attainment_of
from rondo_bench.sim.workload import WorkloadSpec, make_workload
from rondo_bench.slack.live import run_live
from rondo_bench.slack.report import Pair, Row, as_markdown, percentile_ms
from rondo_bench.slack.trial import Outcome, Trial, run_trial

#: The goodput that rates are shares of: of requests within their SLO.
TARGET = 0.99
#: The queue of background requests holds the whole backlog.
QUEUE = QueueSettings(max_wait_s=1e9, max_pending=10**9)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "slack",
        help="online traffic with and without a batch in its slack",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    lengths = "../shared/data/lengths/ecoserve_matched_sharegpt_20k.csv.gz"
    add("--profile", default="codellama-34b-l20-tp4", metavar="FILE|NAME")
    add("--policy", choices=LIVE_POLICY_NAMES, default="padg")
    add("--lengths", default=lengths, metavar="CSV", help="of online requests and of lines")
    add("--instances", type=int, default=4, metavar="N")
    add("--shares", type=float, nargs="+", default=[0.25, 0.5, 0.75], help="of goodput")
    add("--goodput", type=float, default=None, metavar="R", help="requests/s; default: searched")
    add("--requests", type=int, default=2000, metavar="K", help="online, of each run")
    add("--lines", type=int, default=4000, metavar="K", help="of the backlog")
    add("--seeds", type=int, default=3, help="runs, pooled")
    add("--ttft-s", type=float, default=5.0, metavar="X")
    add("--tpot-s", type=float, default=0.1, metavar="Y")
    add("--live", action="store_true", help="on a cluster of emulated instances; needs --goodput")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    add("--write", type=Path, default=None, help="Markdown file to write, too")
    add("--json", action="store_true", help="print one JSON object and nothing else")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs both sides at each share; prints, writes; 0 whatever came out."""
    for name in ("instances", "requests", "lines", "seeds", "jobs"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name}", f"must be at least 1, not {getattr(args, name)}")
    if not all(0 < share < 10 for share in args.shares):
        raise ConfigError("--shares", "must be above 0 and below 10")
    if args.live:
        return run_live(args)
    spec = ClusterSpec(
        profile=load_profile(args.profile),
        policy=args.policy,
        num_instances=args.instances,
        slo=Slo(ttft_s=args.ttft_s, tpot_s=args.tpot_s),
        prediction="exact",
    )
    online = WorkloadSpec(lengths=args.lengths, rate=1.0, num_requests=args.requests)
    with ProcessPoolExecutor(args.jobs) as pool:
        goodput = args.goodput or _goodput(pool, spec, online)
        # Requests that wait for long are the point here.
        spec = replace(spec, settings=PolicySettings(queue=QUEUE))
        rows = [
            _row(pool, spec, msgspec.structs.replace(online, rate=share * goodput), share, args)
            for share in args.shares
        ]
    text = as_markdown(rows, args, goodput)
    if args.write:
        args.write.write_text(text)
    print(json.dumps(_as_json(rows, goodput)) if args.json else text, end="\n" * args.json)
    return 0


def _goodput(pool: ProcessPoolExecutor, spec: ClusterSpec, online: WorkloadSpec) -> float:
    """Requests/s that the cluster serves within their SLO, without a batch."""

    def measure(rate: float, seeds: Sequence[int]) -> list[float]:
        workloads = [msgspec.structs.replace(online, rate=rate, seed=seed) for seed in seeds]
        return list(pool.map(partial(attainment_of, spec), workloads))

    start = START_SHARE * rough_capacity(spec, make_workload(online))
    return GoodputSearch(measure, start, [0]).find(TARGET).rate


def _row(
    pool: ProcessPoolExecutor,
    spec: ClusterSpec,
    online: WorkloadSpec,
    share: float,
    args: argparse.Namespace,
) -> Row:
    seeds = [msgspec.structs.replace(online, seed=seed) for seed in range(args.seeds)]
    trials = [Trial(spec, workload, lines) for lines in (0, args.lines) for workload in seeds]
    outcomes = list(pool.map(run_trial, trials))
    without, beside = outcomes[: args.seeds], outcomes[args.seeds :]
    window_s = sum(outcome.window_s for outcome in beside)
    assert online.rate is not None
    return Row(
        share=share,
        rate=online.rate,
        ttft_ms=_both(without, beside, "ttft_s"),
        tpot_ms=_both(without, beside, "tpot_s"),
        attainment=(_attainment(without), _attainment(beside)),
        tokens_per_s=sum(outcome.tokens for outcome in beside) / window_s,
        answer_tokens_per_s=sum(outcome.answer_tokens for outcome in beside) / window_s,
        lines_per_s=sum(outcome.num_lines_done for outcome in beside) / window_s,
        dry=any(outcome.dry for outcome in beside),
    )


def _both(without: Sequence[Outcome], beside: Sequence[Outcome], field: str) -> dict[str, Pair]:
    """p50 and p99 in ms, over all seeds."""
    one, other = ([v for o in side for v in getattr(o, field)] for side in (without, beside))
    return {
        name: percentile_ms(one, other, quantile)
        for name, quantile in (("p50", 0.5), ("p99", 0.99))
    }


def _attainment(outcomes: Sequence[Outcome]) -> float:
    return sum(o.num_good for o in outcomes) / sum(o.num_offered for o in outcomes)


def _as_json(rows: Sequence[Row], goodput: float) -> dict[str, object]:
    """What other programs read."""
    return {"goodput_rps": goodput, "rows": [row.as_json() for row in rows]}
