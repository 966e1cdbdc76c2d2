"""The end-to-end grid: goodput of each system for each model, GPU, data set and target.

Each baseline is tuned for each case before it is measured, with the first seed and the hardest
target: the token budget of chunked batching, the limit of a prefill step, the split of full
disaggregation. The first member of a family is measured at all targets, the others at the hardest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from rondo.policy.catalog import PolicySettings
from rondo.policy.fudg import FudgSettings
from rondo_bench.experiments.cases import (
    CHUNK_TOKENS,
    DATASETS,
    MODELS,
    NUM_INSTANCES,
    PREFILL_TOKENS,
    SEEDS,
    Case,
    Folders,
)
from rondo_bench.experiments.search import TUNING, Job, Record, goodputs, run_jobs
from rondo_bench.sim.capacity import ceiling
from rondo_bench.sim.goodput import Goodput
from rondo_bench.sim.spec import ClusterSpec
from rondo_bench.sim.workload import make_workload

HARDEST = 0.99
TARGETS = (HARDEST, 0.9, 0.5)
#: Any rate at which a run has enough requests for their mean lengths.
CEILING_RATE = 100.0

#: family: (system it is tuned with, what is tuned, values, the systems that are measured)
FAMILIES: dict[str, tuple[str, str, tuple[int, ...], tuple[str, ...]]] = {
    "padg": ("padg", "", (), ("padg",)),
    "padg-paper": ("padg-paper", "", (), ("padg-paper",)),
    "nodg": ("nodg-jsq", "prefill_tokens", PREFILL_TOKENS, ("nodg-jsq", "nodg-rr")),
    "chunked": ("chunked-jsq", "chunk_tokens", CHUNK_TOKENS, ("chunked-jsq", "chunked-rr")),
    "fudg": (
        "fudg",
        "prefill_instances",
        tuple(range(1, NUM_INSTANCES)),
        ("fudg", "fudg-ideal"),
    ),
}


def run_grid(
    cases: Sequence[Case],
    targets: Sequence[float],
    folders: Folders,
    processes: int,
    say: Callable[[str], None],
) -> list[Record]:
    """One record a case, system and target; the first target is the one that is tuned for."""
    lengths, goals = str(folders.lengths), tuple(targets)
    jobs = [
        Job(measure_family, (case, family, goals, lengths)) for case in cases for family in FAMILIES
    ]
    if HARDEST in goals:
        jobs += [Job(measure_ceiling, (case, lengths)) for case in cases]
    records: list[Record] = []
    for job, found in run_jobs(jobs, folders.cache, processes):
        records += found
        case = job.arguments[0]
        rates = {r["system"]: r["rate"] for r in found if r["target"] == found[0]["target"]}
        say(f"{case.model} {case.gpu} {case.dataset.name} {rates} {found[0]['tuned']}")
    return records


def all_cases(gpus: Sequence[str], datasets: Sequence[str]) -> list[Case]:
    """The cases of these GPUs and data sets."""
    chosen = [d for d in reversed(DATASETS) if d.name in datasets]
    return [Case(m, g, d) for g in gpus for d in chosen for m in MODELS]


def measure_family(case: Case, family: str, goals: tuple[float, ...], lengths: str) -> list[Record]:
    """Tunes one family of systems for a case, and measures its members."""
    system, setting, values, members = FAMILIES[family]
    offered = partial(case.dataset.offered, lengths)

    def tuned_rate(value: int) -> float:
        cluster = configured(case, system, setting, value)
        return goodputs(cluster, offered, goals[:1], SEEDS[:1], TUNING)[0].rate

    best = max(values, key=tuned_rate, default=0)
    tuned = {setting: best} if setting else {}
    records: list[Record] = []
    for number, member in enumerate(members):
        targets = goals if number == 0 else goals[:1]
        found = goodputs(configured(case, member, setting, best), offered, targets, SEEDS)
        records += [_record(case, member, tuned, goodput) for goodput in found]
    return records


def measure_ceiling(case: Case, lengths: str) -> list[Record]:
    """What no schedule can exceed; beside the goodput of the hardest target."""
    arrivals = make_workload(case.dataset.offered(lengths, CEILING_RATE, SEEDS[0]))
    rate = ceiling(case.cluster("padg"), arrivals)
    return [_record(case, "ceiling", {}, Goodput(HARDEST, rate, rate, rate, []))]


def configured(case: Case, system: str, setting: str, value: int) -> ClusterSpec:
    """The case's cluster under a system with a tuned value."""
    spec = case.cluster(system.removesuffix("-ideal"))
    match setting:
        case "chunk_tokens":
            return replace(spec, settings=PolicySettings(chunk_tokens=value))
        case "prefill_tokens":
            return replace(spec, max_prefill_tokens=value)
        case "prefill_instances":
            links = spec.links
            if system.endswith("-ideal"):
                links = replace(links, link_gbps=float("inf"), intra_node_gbps=float("inf"))
            settings = PolicySettings(fudg=FudgSettings(num_prefill=value))
            return replace(spec, settings=settings, links=links)
    return spec


def _record(case: Case, system: str, tuned: dict[str, int], found: Goodput) -> Record:
    return {
        "model": case.model,
        "gpu": case.gpu,
        "dataset": case.dataset.name,
        "target": found.target,
        "system": system,
        "rate": round(found.rate, 4),
        "low": round(found.low, 4),
        "high": round(found.high, 4),
        "dips": [round(rate, 4) for rate in found.dips],
        "tuned": tuned,
        "instances": NUM_INSTANCES,
    }
