"""Instances that plan KV by predicted lengths against full disaggregation, where KV is tight.

EconoServe's claim is fewer GPUs than DistServe at the same goodput. Here: Llama-2-13B, one L20 an
instance (20,944 tokens of KV), first turns of ShareGPT with predictions, 5 s and 100 ms. First the
goodput of eight instances with full disaggregation, whose split and use of the pool are tuned and
whose KV moves in no time; then, of every other system, the fewest instances that hold that rate
with any of its settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import msgspec
import numpy as np

from rondo.perf.profile import load_profile
from rondo.policy.catalog import PolicySettings
from rondo.policy.econoserve import EconoSettings
from rondo.policy.fudg import FudgSettings
from rondo.types import Slo
from rondo_bench.experiments.cases import NUM_INSTANCES, SEEDS, Folders
from rondo_bench.experiments.lengths import PREDICTED_FILE
from rondo_bench.experiments.search import FINE, TUNING, Job, Record, run_jobs
from rondo_bench.sim.capacity import rough_capacity
from rondo_bench.sim.cluster import SimCluster
from rondo_bench.sim.goodput import GoodputSearch
from rondo_bench.sim.records import Arrival
from rondo_bench.sim.spec import BLOCK_GROWTH, ClusterSpec, LinkSpec
from rondo_bench.sim.workload import WorkloadSpec, make_workload

PROFILE = "llama-2-13b-l20-tp1"
OBJECTIVE = Slo(ttft_s=5.0, tpot_s=0.1)
#: One GPU needs no processes beside the engine's own.
CPU_MS = 2.0
TARGETS = (0.99, 0.9)
RUN_SEEDS = SEEDS[:2]
#: Requests come for so long.
SPAN_S = 120.0
#: Where even so many do not hold the rate, no more are tried.
MOST_INSTANCES = 10
#: A search begins at this share of a rough estimate of the capacity.
START_SHARE = 0.7
#: What all are told of the answers: the file's predictions, which are near an oracle's; the true
#: lengths times e^N(0, NOISE); the running mean.
PREDICTIONS = ("file", "noise", "mean")
NOISE = 0.5
#: Stream of a seed that noise is drawn from, beside those of `rondo_bench.sim.workload`.
_NOISE = 4

Tuned = dict[str, float | str]


@dataclass(frozen=True, slots=True)
class System:
    """A policy with an instance policy, and the values that each of its settings is tried with."""

    policy: str
    instance_policy: str
    settings: tuple[tuple[str, tuple[float | str, ...]], ...]

    def choices(self) -> list[Tuned]:
        """All combinations."""
        names = [name for name, _ in self.settings]
        values = product(*(values for _, values in self.settings))
        return [dict(zip(names, each, strict=True)) for each in values]

    def described(self) -> Record:
        """As records name it."""
        return {"system": self.policy, "instance_policy": self.instance_policy}


_SPLITS = ("prefill_instances", (1, 2))
_SHARES = ("promised_share", (1.25, 1.0, 1.5))
_CHUNKS = ("chunk_tokens", (128,))  # one tile of the GPU's: the best on one instance, too
_ORDERS = ("order", ("first-come", "shortest"))
_HEADROOMS = ("headroom_share", (0.0, 0.08))
RIVAL = System("fudg", BLOCK_GROWTH, (_SPLITS, _SHARES))
SYSTEMS = (
    System("fudg", "econoserve", (("prefill_instances", (1,)), _SHARES, _HEADROOMS)),
    System("chunked-jsq", BLOCK_GROWTH, (_CHUNKS,)),
    System("chunked-jsq", "econoserve", (_CHUNKS, _ORDERS, _HEADROOMS)),
    System("padg", BLOCK_GROWTH, (_SHARES,)),
    System("padg", "econoserve", (_SHARES, _HEADROOMS)),
)


def run_instances(folders: Folders, processes: int, say: Callable[[str], None]) -> list[Record]:
    """One record a system, target and prediction."""
    lengths = str(folders.lengths)

    def run(jobs: Sequence[Job]) -> list[Record]:
        found: list[Record] = []
        for _, records in run_jobs(jobs, folders.cache, processes):
            found += records
            for record in records:
                say(str(record))
        return found

    cases = [(target, told) for told in PREDICTIONS for target in TARGETS]
    rivals = run([Job(measure_rival, (*case, lengths)) for case in cases])
    counted = run(
        [
            Job(count, (system, rival["target"], rival["prediction"], rival["rate"], lengths))
            for rival in rivals
            for system in SYSTEMS
        ]
    )
    return rivals + counted


def measure_rival(target: float, told: str, lengths: str) -> list[Record]:
    """Goodput of the rival, with the settings that are best on the first seed.

    Settings that miss the target at the best rate so far are searched no further.
    """
    best: Tuned = {}
    best_rate = 0.0
    for choice in RIVAL.choices():
        trial = Trial(cluster_of(RIVAL, choice), told, lengths)
        if best_rate and trial.attainments(best_rate, RUN_SEEDS[:1])[0] < target:
            continue
        start = best_rate or START_SHARE * trial.capacity()
        rate = GoodputSearch(trial.attainments, start, RUN_SEEDS[:1], TUNING).find(target).rate
        if rate > best_rate:
            best, best_rate = choice, rate
    trial = Trial(cluster_of(RIVAL, best), told, lengths)
    found = GoodputSearch(trial.attainments, best_rate, RUN_SEEDS, FINE).find(target)
    rate = round(found.rate, 4)
    attained = trial.attainment(rate)
    return [_record(RIVAL, target, told, rate, NUM_INSTANCES, attained, best)]


def count(system: System, target: float, told: str, rate: float, lengths: str) -> list[Record]:
    """The fewest instances of a system that hold a rate, with the settings that do."""

    def best_of(num: int, first: Tuned) -> tuple[float, Tuned]:
        """The first settings that hold it, or those that come nearest."""
        best = 0.0, first
        for choice in sorted(system.choices(), key=lambda each: each != first):
            trial = Trial(cluster_of(system, choice, num), told, lengths)
            attained = trial.attainment(rate, target)
            best = max(best, (attained, choice), key=lambda each: each[0])
            if attained >= target:
                break
        return best

    num = NUM_INSTANCES
    attained, tuned = best_of(num, {})
    while attained >= target and num > 1:
        fewer, choice = best_of(num - 1, tuned)
        if fewer < target:
            return [_record(system, target, told, rate, num, attained, tuned)]
        num, attained, tuned = num - 1, fewer, choice
    while attained < target and num < MOST_INSTANCES:
        num += 1
        attained, tuned = best_of(num, tuned)
    fewest = num if attained >= target else None
    return [_record(system, target, told, rate, fewest, attained, tuned)]


def cluster_of(system: System, tuned: Tuned, num_instances: int | None = None) -> ClusterSpec:
    """The system with these settings."""
    settings = PolicySettings(
        chunk_tokens=int(tuned.get("chunk_tokens", 0)),
        fudg=FudgSettings(num_prefill=int(tuned.get("prefill_instances", 0))),
    )
    own = {name: tuned[name] for name in ("order", "headroom_share") if name in tuned}
    econo = msgspec.convert(own, EconoSettings)
    return ClusterSpec(
        profile=load_profile(PROFILE),
        policy=system.policy,
        num_instances=num_instances or NUM_INSTANCES,
        slo=OBJECTIVE,
        settings=settings,
        instance_policy=system.instance_policy,
        econo=econo,
        promised_share=float(tuned.get("promised_share", 1.0)),
        cpu_ms=CPU_MS,
        links=LinkSpec(link_gbps=math.inf, intra_node_gbps=math.inf),
    )


def _record(
    system: System,
    target: float,
    told: str,
    rate: float,
    instances: int | None,
    attained: float,
    tuned: Tuned,
) -> Record:
    return {
        **system.described(),
        "dataset": "sharegpt",
        "target": target,
        "prediction": told,
        "rate": rate,
        "instances": instances,
        "attainment": round(attained, 4),
        "tuned": tuned,
    }


class Trial:
    """Runs of one cluster, told predictions of one kind."""

    def __init__(self, cluster: ClusterSpec, prediction: str, lengths: str) -> None:
        self._noisy = prediction == "noise"
        self._cluster = replace(cluster, prediction="file" if self._noisy else prediction)
        self._lengths = f"{lengths}/{PREDICTED_FILE}"

    def capacity(self) -> float:
        """A rough guess of requests/s."""
        return rough_capacity(self._cluster, self.arrivals(1.0, RUN_SEEDS[0]))

    def attainment(self, rate: float, target: float = 0.0) -> float:
        """The mean over the seeds, of those run until it is sure to miss the target."""
        shares: list[float] = []
        for seed in RUN_SEEDS:
            shares += self.attainments(rate, (seed,))
            if sum(shares) + len(RUN_SEEDS) - len(shares) < target * len(RUN_SEEDS):
                break
        return sum(shares) / len(shares)

    def attainments(self, rate: float, seeds: Sequence[int]) -> list[float]:
        """Share of the offered requests that meet their objective, by seed."""
        return [self._attainment(rate, seed) for seed in seeds]

    def arrivals(self, rate: float, seed: int) -> list[Arrival]:
        """The requests of a run, with what is told of them."""
        count = max(1, round(rate * SPAN_S))
        arrivals = make_workload(
            WorkloadSpec(lengths=self._lengths, rate=rate, num_requests=count, seed=seed)
        )
        if not self._noisy:
            return arrivals
        factors = np.exp(np.random.default_rng([seed, _NOISE]).normal(0.0, NOISE, len(arrivals)))
        return [
            msgspec.structs.replace(
                arrival, predicted_tokens=max(1, round(arrival.output_tokens * factor))
            )
            for arrival, factor in zip(arrivals, factors.tolist(), strict=True)
        ]

    def _attainment(self, rate: float, seed: int) -> float:
        records = SimCluster(self._cluster).run(self.arrivals(rate, seed), seed).requests
        return sum(record.meets_slo for record in records) / len(records)
