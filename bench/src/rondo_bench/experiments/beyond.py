"""What the paper leaves out: low load, overload, a 32k prompt, and a load that rises and falls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import msgspec

from rondo.policy.mitosis import Mitosis, MitosisSettings
from rondo.policy.scaling import ScalingTrigger, TriggerSettings
from rondo_bench.experiments.cases import SEEDS, Folders, dataset
from rondo_bench.experiments.search import Job, Record, goodputs, run_jobs
from rondo_bench.experiments.sweeps import cluster_of
from rondo_bench.sim.arrivals import step_curve
from rondo_bench.sim.cluster import SimCluster
from rondo_bench.sim.records import RequestRecord
from rondo_bench.sim.scaler import SimScaler
from rondo_bench.sim.workload import LongPrompt, WorkloadSpec, make_workload

SYSTEMS = ("padg", "padg-paper", "chunked-jsq", "nodg-jsq")
DATASETS = ("sharegpt", "longbench")
LONG_PROMPT_TOKENS = 32_000
#: Rates of the scaling run: the paper's 20 to 50 in 2-minute steps, and down again.
STEPS = (20.0, 30.0, 40.0, 50.0, 40.0, 30.0, 20.0, 20.0, 20.0)
STEP_S = 120.0
WINDOW_S = 30.0


def run_beyond(folders: Folders, processes: int, say: Callable[[str], None]) -> list[Record]:
    """Low load, overload and the long prompt for each system."""
    jobs = [Job(extremes, (n, s, str(folders.lengths))) for n in DATASETS for s in SYSTEMS]
    records: list[Record] = []
    for _, found in run_jobs(jobs, folders.cache, processes):
        records += found
        for record in found:
            say(str(record))
    return records


def extremes(name: str, system: str, lengths: str) -> list[Record]:
    """One system at a tenth of its goodput, at twice it, and with a 32k prompt at half of it."""
    cluster, offered = cluster_of(name, system), partial(dataset(name).offered, lengths)
    goodput = goodputs(cluster, offered, (0.99,), SEEDS)[0].rate
    checks = {
        "low load": (0.1, ()),
        "overload": (2.0, ()),
        "32k prompt": (0.5, (20.0, 40.0)),
    }
    records: list[Record] = []
    for check, (factor, times) in checks.items():
        rate = max(goodput, 0.1) * factor
        values: dict[str, float] = {"rate": round(rate, 3)}
        runs: list[RequestRecord] = []
        for seed in SEEDS:
            prompts = tuple(
                LongPrompt(at_s=t, prompt_tokens=LONG_PROMPT_TOKENS, output_tokens=200)
                for t in times
            )
            one = msgspec.structs.replace(offered(rate, seed), long_prompts=prompts)
            runs += SimCluster(cluster).run(make_workload(one), seed).requests
        values |= _values(runs)
        record = {"check": check, "dataset": name, "system": system, "values": values}
        records.append(record)
    return records


def _values(runs: list[RequestRecord]) -> dict[str, float]:
    long = [r for r in runs if r.arrival.request_id.startswith("long")]
    others = [r for r in runs if not r.arrival.request_id.startswith("long")]
    admitted = [r for r in others if not r.rejected]
    refused = [r for r in others if r.rejected]
    tpots = sorted(r.tpot_s for r in admitted if r.tpot_s is not None)
    values = {
        "attainment": sum(r.meets_slo for r in others) / len(others),
        "admitted attainment": sum(r.meets_slo for r in admitted) / max(1, len(admitted)),
        "refused share": len(refused) / len(others),
        "p99 TPOT s": tpots[int(0.99 * (len(tpots) - 1))] if tpots else 0.0,
    }
    waits = sorted((r.rejected_s or 0.0) - r.arrival.at_s for r in refused)
    if waits:
        values["p50 wait for refusal s"] = waits[len(waits) // 2]
        values["mean retry after s"] = sum(r.retry_after_s or 0.0 for r in refused) / len(refused)
    ttfts = [r.ttft_s for r in long if r.ttft_s is not None]
    if ttfts:
        values["TTFT of the long prompt s"] = sum(ttfts) / len(ttfts)
    return {key: round(value, 4) for key, value in values.items()}


def run_mitosis(folders: Folders, say: Callable[[str], None]) -> list[Record]:
    """A load that rises and then falls, from 8 instances on; ShareGPT, CodeLlama-34B, L20."""
    spec = replace(cluster_of("sharegpt", "padg"), num_instances=0, num_macros=0)
    cluster = SimCluster(spec)
    scaler = SimScaler(
        cluster,
        Mitosis(MitosisSettings(n_lower=6, n_upper=11)),
        ScalingTrigger(TriggerSettings(min_instances=4, contract_windows=2)),
        start=8,
        window_s=WINDOW_S,
        startup_s=10.0,
        until_s=STEP_S * len(STEPS),
    )
    workload = WorkloadSpec(
        lengths=str(folders.lengths / dataset("sharegpt").file),
        curve=step_curve(STEPS, STEP_S),
        seed=SEEDS[0],
    )
    cluster.run(make_workload(workload), SEEDS[0])
    records: list[Record] = []
    for seen in scaler.windows:
        at_s = seen.window.at_s
        step = min(int((at_s - WINDOW_S / 2) / STEP_S), len(STEPS) - 1)
        series = {
            "rate": STEPS[step],
            "instances": seen.window.num_instances,
            "macros": seen.num_macros,
            "attainment": seen.attainment,
        }
        records += [
            {"series": k, "t_s": at_s, "value": v} for k, v in series.items() if v is not None
        ]
        say(f"{at_s:5.0f} s {series} {seen.verdict.value}: {seen.reason}")
    records += [{"series": "event", "t_s": at_s, "text": text} for at_s, text in scaler.events]
    return records
