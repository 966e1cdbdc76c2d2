"""Experiments beside the grid: attainment over rate, objectives, bursts, sizes, ablations.

All on L20 and CodeLlama-34B unless they say otherwise; baselines with the values that the grid's
tuning finds best there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

from rondo.policy.catalog import PolicySettings
from rondo.policy.padg_paper import PaperSettings
from rondo.types import Slo
from rondo_bench.experiments.cases import SEEDS, Case, Folders, dataset
from rondo_bench.experiments.search import Job, Offered, Record, goodputs, run_jobs
from rondo_bench.sim.cluster import SimCluster
from rondo_bench.sim.spec import ClusterSpec
from rondo_bench.sim.summary import summarize
from rondo_bench.sim.workload import make_workload

MODEL, GPU = "codellama-34b", "l20"
#: Systems of the sweeps, with the budgets that tuning found for CodeLlama-34B on L20.
SYSTEMS = ("padg", "padg-paper", "chunked-jsq", "nodg-jsq")
CHUNK_TOKENS = {"alpaca": 256, "sharegpt": 128, "longbench": 128}
#: The lower one too, because 99 % cannot be met where more prompts than that take longer than the
#: TTFT limit on an idle instance.
SLO_TARGETS = (0.99, 0.9)
SLOS = ((5.0, 0.1), (5.0, 0.05), (2.0, 0.1), (1.0, 0.1), (1.0, 0.05))
CVS = (1.0, 1.2, 1.5, 2.0)
SIZES = (1, 2, 4, 8)
RATES = {
    "sharegpt": (2, 4, 8, 12, 16, 20, 24, 28, 32, 36),
    "longbench": (0.5, 1, 2, 3, 4, 5, 6, 7, 8),
}
ABLATIONS: dict[str, PaperSettings] = {
    "mean slack (paper)": PaperSettings(),
    "quantile 0.1": PaperSettings(slack_quantile=0.1),
    "least slack": PaperSettings(slack_quantile=0.0),
    "quantile 0.1, random order": PaperSettings(slack_quantile=0.1, order="random"),
    "random order": PaperSettings(order="random"),
    "fixed interval 1/4": PaperSettings(interval_share=0.25),
    "fixed interval 1/2": PaperSettings(interval_share=0.5),
    "fixed interval 3/4": PaperSettings(interval_share=0.75),
    "fixed interval 1": PaperSettings(interval_share=1.0),
    "quantile 0.1, fused turns of 512": PaperSettings(slack_quantile=0.1, fused_tokens=512),
}


def run_sweep(
    name: str,
    systems: Sequence[str],
    folders: Folders,
    processes: int,
    say: Callable[[str], None],
) -> list[Record]:
    """The records of one of the sweeps, of these systems."""
    records: list[Record] = []
    for job, found in run_jobs(jobs_of(name, systems, folders), folders.cache, processes):
        records += found
        say(f"{name} {' '.join(str(a) for a in job.arguments[:4])}: {found[0]}")
    return records


def jobs_of(name: str, systems: Sequence[str], folders: Folders) -> list[Job]:
    """What a sweep works out for these systems; all that is compared without any."""
    left_out = set(SYSTEMS) - set(systems)
    jobs = SWEEPS[name](str(folders.lengths))
    return [job for job in jobs if left_out.isdisjoint(job.arguments)]


def cluster_of(name: str, system: str, num_instances: int = 8, model: str = MODEL) -> ClusterSpec:
    """The tuned cluster of a system for a data set."""
    spec = Case(model, GPU, dataset(name)).cluster(system, num_instances)
    return replace(spec, settings=PolicySettings(chunk_tokens=CHUNK_TOKENS[name]))


def curve(name: str, system: str, lengths: str) -> list[Record]:
    """Attainment and latencies over the rate, means over the seeds."""
    records: list[Record] = []
    for rate in RATES[name]:
        summaries = []
        for seed in SEEDS:
            arrivals = make_workload(dataset(name).offered(lengths, rate, seed))
            run = SimCluster(cluster_of(name, system)).run(arrivals, seed)
            summaries.append(summarize(run))
        mean = {
            "attainment": _mean([s["attainment"] for s in summaries]),
            "attainment_ttft": _mean([s["attainment_ttft"] for s in summaries]),
            "attainment_tpot": _mean([s["attainment_tpot"] for s in summaries]),
            "ttft_p50": _mean([s["ttft_s"]["p50"] for s in summaries]),
            "ttft_p99": _mean([s["ttft_s"]["p99"] for s in summaries]),
            "tpot_p50": _mean([s["tpot_s"]["p50"] for s in summaries]),
            "tpot_p99": _mean([s["tpot_s"]["p99"] for s in summaries]),
        }
        records.append({"dataset": name, "system": system, "rate": float(rate), **mean})
    return records


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 5) if known else None


def _goodput(
    cluster: ClusterSpec, offered: Offered, described: Record, targets: Sequence[float] = (0.99,)
) -> list[Record]:
    return [
        {
            **described,
            "target": found.target,
            "rate": round(found.rate, 4),
            "low": round(found.low, 4),
            "high": round(found.high, 4),
        }
        for found in goodputs(cluster, offered, targets, SEEDS)
    ]


def objective(system: str, ttft_s: float, tpot_s: float, lengths: str) -> list[Record]:
    """Goodput on ShareGPT under another objective, at both targets."""
    cluster = replace(cluster_of("sharegpt", system), slo=Slo(ttft_s=ttft_s, tpot_s=tpot_s))
    described = {"dataset": "sharegpt", "system": system, "ttft_s": ttft_s, "tpot_s": tpot_s}
    offered = partial(dataset("sharegpt").offered, lengths)
    return _goodput(cluster, offered, described, SLO_TARGETS)


def burst(name: str, system: str, cv: float, lengths: str) -> list[Record]:
    """Goodput under Gamma arrivals."""
    described = {"dataset": name, "system": system, "cv": cv}
    return _goodput(
        cluster_of(name, system), partial(dataset(name).offered, lengths, cv=cv), described
    )


def size(model: str, system: str, num_instances: int, lengths: str) -> list[Record]:
    """Goodput on ShareGPT by the number of instances."""
    cluster = cluster_of("sharegpt", system, num_instances, model)
    described = {
        "model": model,
        "dataset": "sharegpt",
        "system": system,
        "instances": num_instances,
    }
    return _goodput(cluster, partial(dataset("sharegpt").offered, lengths), described)


def ablation(name: str, variant: str, lengths: str) -> list[Record]:
    """Goodput of the paper's policy with one part changed, and of ours."""
    if variant == "padg":
        cluster = cluster_of(name, "padg")
    else:
        settings = PolicySettings(paper=ABLATIONS[variant])
        cluster = replace(cluster_of(name, "padg-paper"), settings=settings)
    described = {"dataset": name, "variant": variant}
    return _goodput(cluster, partial(dataset(name).offered, lengths), described)


def _jobs(function: Callable[..., list[Record]], *axes: Sequence[object]) -> list[Job]:
    """The function over all combinations."""
    return [Job(function, combination) for combination in product(*axes)]


SWEEPS: dict[str, Callable[[str], list[Job]]] = {
    "curves": lambda lengths: _jobs(curve, tuple(RATES), SYSTEMS, [lengths]),
    "slo": lambda lengths: [
        Job(objective, (system, *slo, lengths)) for system in SYSTEMS for slo in SLOS
    ],
    "bursts": lambda lengths: _jobs(burst, ("sharegpt", "longbench"), SYSTEMS, CVS, [lengths]),
    "scale": lambda lengths: _jobs(
        size, (MODEL, "qwen2-72b"), ("padg", "padg-paper"), SIZES, [lengths]
    ),
    "ablations": lambda lengths: _jobs(
        ablation, ("sharegpt", "longbench"), (*ABLATIONS, "padg"), [lengths]
    ),
}
