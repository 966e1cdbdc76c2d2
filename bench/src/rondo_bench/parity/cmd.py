"""rondo-bench parity: does the simulator foretell what a live cluster does?"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from rondo.errors import ConfigError
from rondo.perf.profile import load_profile
from rondo.policy.catalog import LIVE_POLICY_NAMES
from rondo_bench.parity.cases import CASES, Case, Setup
from rondo_bench.parity.compare import Served, error_of, figures
from rondo_bench.parity.live import LiveRun, run_live
from rondo_bench.parity.simulated import run_simulated
from rondo_bench.sim.records import Arrival

#: The bars: relative error of a percentile, difference of attainment.
MAX_ERROR = 0.10
MAX_ATTAINMENT_ERROR = 0.03


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "parity",
        help="compare a live cluster of emulated instances with the simulator",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--profile", default="codellama-34b-l20-tp4", metavar="FILE|NAME")
    add("--policies", nargs="+", choices=LIVE_POLICY_NAMES, default=["padg"], metavar="NAME")
    add("--cases", nargs="+", choices=[case.name for case in CASES], default=None)
    add("--instances", type=int, default=8, metavar="N")
    add("--max-model-len", type=int, default=8192, metavar="N", help="longer requests are cut")
    add("--seeds", type=int, nargs="+", default=[0], help="each is a run of its own")
    add("--duration-s", type=float, default=None, metavar="X", help="default: the case's")
    add("--rate", type=float, default=None, metavar="R", help="default: the case's")
    add("--lengths-dir", type=Path, default=Path("../shared/data/lengths"))
    add("--write", type=Path, default=None, help="JSON file to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compares, prints a table, writes; 0 whatever the errors are."""
    _check(args)
    profile = load_profile(args.profile)
    records: list[dict[str, object]] = []
    runs: list[dict[str, object]] = []
    for policy in args.policies:
        setup = Setup(
            policy=policy,
            profile_name=args.profile,
            profile=profile,
            num_instances=args.instances,
            max_model_len=args.max_model_len,
        )
        for case in _cases(args):
            compared, offered = compare(setup, case, args.lengths_dir, args.seeds)
            records += compared
            runs += offered
            if args.write:  # after each: a run takes minutes
                _write(args, records, runs)
    print(table(records))
    return 0


def compare(
    setup: Setup, case: Case, lengths: Path, seeds: Sequence[int]
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Serves the case on both sides for every seed.

    Returns:
        Records of live, simulated and error, over the requests of all seeds; and one row for
        each run: its requests, rate, objectives, what the way took, and the machine's load.
    """
    live: list[Served] = []
    simulated: list[Served] = []
    runs: list[dict[str, object]] = []
    for seed in seeds:
        arrivals = case.arrivals(lengths, setup.max_model_len, seed)
        began_s = time.monotonic()
        real = uvloop.run(run_live(setup, arrivals, case.slo, seed))
        live += real.requests
        simulated += run_simulated(
            setup, arrivals, case.slo, seed, hop_s=real.hop_s, http_s=real.http_s
        )
        runs.append(_row(setup, case, seed, arrivals, real))
        spent_s = time.monotonic() - began_s
        print(f"{setup.policy} {case.name} seed {seed}: {spent_s:.0f} s", file=sys.stderr)
    return _records(setup, case, live, simulated), runs


def _row(
    setup: Setup, case: Case, seed: int, arrivals: Sequence[Arrival], real: LiveRun
) -> dict[str, object]:
    return {
        "workload": case.name,
        "policy": setup.policy,
        "seed": seed,
        "requests": len(arrivals),
        "rate": case.rate,
        "prompt_tokens": sum(a.prompt_tokens for a in arrivals),
        "output_tokens": sum(a.output_tokens for a in arrivals),
        "ttft_slo_s": case.slo.ttft_s,
        "tpot_slo_s": case.slo.tpot_s,
        "hop_s": real.hop_s,
        "http_s": real.http_s,
        "refused_live": sum(one.ttft_s is None for one in real.requests),
        "load_1min": os.getloadavg()[0],
    }


def _records(
    setup: Setup, case: Case, live: Sequence[Served], simulated: Sequence[Served]
) -> list[dict[str, object]]:
    of_live, of_sim = figures(live, case.slo), figures(simulated, case.slo)
    return [
        {
            "workload": case.name,
            "policy": setup.policy,
            "metric": metric,
            "live": of_live[metric],
            "simulated": of_sim[metric],
            "error": error_of(metric, of_live[metric], of_sim[metric]),
        }
        for metric in of_live
    ]


def table(records: Sequence[dict[str, object]]) -> str:
    """The records for people; a star marks an error above its bar."""
    lines = [f"{'workload':10}{'policy':14}{'metric':14}{'live':>9}{'simulated':>11}{'error':>9}"]
    for record in records:
        metric, error = str(record["metric"]), float(str(record["error"]))
        bar = MAX_ATTAINMENT_ERROR if metric == "attainment" else MAX_ERROR
        lines.append(
            f"{record['workload']:10}{record['policy']:14}{metric:14}{record['live']:9.4f}"
            f"{record['simulated']:11.4f}{error:+9.1%}{'*' if abs(error) > bar else ''}"
        )
    return "\n".join(lines)


def _check(args: argparse.Namespace) -> None:
    if args.instances < 1:
        raise ConfigError("--instances", f"must be at least 1, not {args.instances}")
    if args.max_model_len < 2:
        raise ConfigError("--max-model-len", f"must be at least 2, not {args.max_model_len}")
    for name in ("rate", "duration_s"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ConfigError(f"--{name.replace('_', '-')}", f"must be above 0, not {value:g}")


def _cases(args: argparse.Namespace) -> list[Case]:
    found = [case for case in CASES if args.cases is None or case.name in args.cases]
    if args.rate is not None:
        found = [dataclasses.replace(case, rate=args.rate) for case in found]
    if args.duration_s is not None:
        found = [dataclasses.replace(case, duration_s=args.duration_s) for case in found]
    return found


def _write(
    args: argparse.Namespace,
    records: Sequence[dict[str, object]],
    runs: Sequence[dict[str, object]],
) -> None:
    result = {
        "experiment": "parity",
        "command": "rondo-bench parity " + _spelled(args),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}",
        "seeds": args.seeds,
        "requests": sum(int(str(row["requests"])) for row in runs),
        "profile": args.profile,
        "instances": args.instances,
        "nice": os.nice(0),
        "records": records,
        "runs": runs,
    }
    args.write.parent.mkdir(parents=True, exist_ok=True)
    args.write.write_text(json.dumps(result, indent=1) + "\n")


def _spelled(args: argparse.Namespace) -> str:
    """The options that this result depends on."""
    words: list[str] = []
    for name in ("policies", "cases", "seeds"):
        if values := getattr(args, name):
            words += [f"--{name}", *(str(value) for value in values)]
    for name in ("profile", "instances", "max_model_len", "rate", "duration_s"):
        if (value := getattr(args, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return " ".join(words)
