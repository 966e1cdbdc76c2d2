"""Instances that plan KV by predicted lengths against full disaggregation, where KV is tight.

EconoServe's claim is fewer GPUs than DistServe at the same goodput. Here: Llama-2-13B, one L20 an
instance (20,944 tokens of KV), first turns of ShareGPT with predictions, 5 s and 100 ms. Every
system is tuned at each target on one seed; then its goodput on eight instances is measured, and the
fewest of its instances that hold the goodput of eight with full disaggregation, whose KV moves in
no time here.
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
from rondo_bench.experiments.search import FINE, START_SHARE, TUNING, Job, Record, run_jobs
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
SPAN_S = 200.0
#: No system needs more instances than that, or it is not looked for.
MOST_INSTANCES = 12
#: Shares of the pool that a policy may count on; what runs short is the instances' business.
SHARES = (1.0, 1.25, 1.5, 2.0)
CHUNKS = (128, 256, 512)
#: A measured search begins at this share of the rate that tuning found.
MEASURE_SHARE = 0.75
#: What instances are told beside the file's predictions, which are near an oracle's: true lengths
#: times e^N(0, NOISE), and the running mean.
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

    @property
    def name(self) -> tuple[str, str]:
        """What records call it by: `system` and `instance_policy`."""
        return self.policy, self.instance_policy

    def choices(self) -> list[Tuned]:
        """All combinations."""
        names = [name for name, _ in self.settings]
        values = product(*(values for _, values in self.settings))
        return [dict(zip(names, each, strict=True)) for each in values]


_SPLITS = ("prefill_instances", (1, 2, 3))
_SHARES = ("promised_share", SHARES)
_CHUNKS = ("chunk_tokens", CHUNKS)
_ORDERS = ("order", ("shortest", "first-come"))
#: The one that the others are to replace comes first.
SYSTEMS = (
    System("fudg", BLOCK_GROWTH, (_SPLITS, _SHARES)),
    System("fudg", "econoserve", (_SPLITS, _SHARES)),
    System("chunked-jsq", BLOCK_GROWTH, (_CHUNKS,)),
    System("chunked-jsq", "shortest-first", (_CHUNKS,)),
    System("chunked-jsq", "econoserve", (_CHUNKS, _ORDERS)),
    System("padg", BLOCK_GROWTH, (_SHARES,)),
    System("padg", "econoserve", (_SHARES, _ORDERS)),
)
#: Systems that are measured with other predictions, too, and with the first seed only.
TOLD = (SYSTEMS[0], SYSTEMS[4], SYSTEMS[6])


def run_instances(folders: Folders, processes: int, say: Callable[[str], None]) -> list[Record]:
    """One record a system, target and prediction."""
    lengths, cache = str(folders.lengths), folders.cache

    def run(jobs: Sequence[Job]) -> list[Record]:
        found: list[Record] = []
        for _, records in run_jobs(jobs, cache, processes):
            found += records
            for record in records:
                say(str(record))
        return found

    tuned = run([Job(tune, (system, goal, lengths)) for goal in TARGETS for system in SYSTEMS])
    measured = run(
        [
            Job(measure, (system, each["target"], told, each["tuned"], each["rate"], lengths))
            for each in tuned
            for system in [_system_of(each)]
            for told in (PREDICTIONS if system in TOLD else PREDICTIONS[:1])
        ]
    )
    goals = {
        (each["target"], each["prediction"]): each["rate"]
        for each in measured
        if _system_of(each) == SYSTEMS[0]
    }
    return run(
        [
            Job(count, (_system_of(each), each, goals[each["target"], each["prediction"]], lengths))
            for each in measured
        ]
    )


def tune(system: System, target: float, lengths: str) -> list[Record]:
    """The settings that reach the target at the highest rate, on the first seed.

    Settings that miss it at the best rate so far are searched no further.
    """
    best: Tuned = {}
    best_rate = 0.0
    for choice in system.choices():
        trial = Trial(cluster_of(system, choice), PREDICTIONS[0], lengths)
        if best_rate and trial.attainment(best_rate, RUN_SEEDS[:1]) < target:
            continue
        start = best_rate or START_SHARE * trial.capacity()
        rate = GoodputSearch(trial.attainments, start, RUN_SEEDS[:1], TUNING).find(target).rate
        if rate > best_rate:
            best, best_rate = choice, rate
    return [{**_named(system), "target": target, "tuned": best, "rate": best_rate}]


def measure(
    system: System, target: float, told: str, tuned: Tuned, rate: float, lengths: str
) -> list[Record]:
    """Goodput of a tuned system; `rate` is about what it was with the file's predictions."""
    trial = Trial(cluster_of(system, tuned), told, lengths)
    search = GoodputSearch(trial.attainments, MEASURE_SHARE * rate, _seeds(told), FINE)
    found = search.find(target)
    rates = {"rate": found.rate, "low": found.low, "high": found.high}
    described = {"dataset": "sharegpt", "target": target, "prediction": told, "tuned": tuned}
    return [{**_named(system), **described, **{k: round(v, 4) for k, v in rates.items()}}]


def count(system: System, measured: Record, goal: float, lengths: str) -> list[Record]:
    """The measured record, with the fewest instances that hold the rate `goal`; None where that is
    more than `MOST_INSTANCES`."""
    target: float = measured["target"]
    told: str = measured["prediction"]

    def holds(num: int) -> bool:
        trial = Trial(cluster_of(system, measured["tuned"], num), told, lengths)
        return trial.attainment(goal, _seeds(told)) >= target

    fewest: int | None = NUM_INSTANCES
    if system != SYSTEMS[0]:
        share = goal / measured["rate"] if measured["rate"] else math.inf
        fewest = _fewest(holds, math.ceil(min(MOST_INSTANCES, share * NUM_INSTANCES)))
    return [{**measured, "instances": fewest, "at_rate": goal}]


def _fewest(holds: Callable[[int], bool], guess: int) -> int | None:
    """The fewest instances that hold, looked for around a guess."""
    num = guess
    if holds(num):
        while num > 1 and holds(num - 1):
            num -= 1
        return num
    return next((more for more in range(num + 1, MOST_INSTANCES + 1) if holds(more)), None)


def cluster_of(system: System, tuned: Tuned, num_instances: int = NUM_INSTANCES) -> ClusterSpec:
    """The system with these settings."""
    settings = PolicySettings(
        chunk_tokens=int(tuned.get("chunk_tokens", CHUNKS[0])),
        fudg=FudgSettings(num_prefill=int(tuned.get("prefill_instances", 0))),
    )
    return ClusterSpec(
        profile=load_profile(PROFILE),
        policy=system.policy,
        num_instances=num_instances,
        slo=OBJECTIVE,
        settings=settings,
        instance_policy=system.instance_policy,
        econo=EconoSettings(order=str(tuned.get("order", "shortest"))),
        promised_share=float(tuned.get("promised_share", 1.0)),
        cpu_ms=CPU_MS,
        links=LinkSpec(link_gbps=math.inf, intra_node_gbps=math.inf),
    )


def _named(system: System) -> Record:
    return dict(zip(("system", "instance_policy"), system.name, strict=True))


def _system_of(record: Record) -> System:
    name = record["system"], record["instance_policy"]
    return next(system for system in SYSTEMS if system.name == name)


def _seeds(told: str) -> tuple[int, ...]:
    return RUN_SEEDS if told == PREDICTIONS[0] else RUN_SEEDS[:1]


class Trial:
    """Runs of one cluster, told predictions of one kind."""

    def __init__(self, cluster: ClusterSpec, prediction: str, lengths: str) -> None:
        self._noisy = prediction == "noise"
        self._cluster = replace(cluster, prediction="file" if self._noisy else prediction)
        self._lengths = f"{lengths}/{PREDICTED_FILE}"

    def capacity(self) -> float:
        """A rough guess of requests/s."""
        return rough_capacity(self._cluster, self._arrivals(1.0, RUN_SEEDS[0]))

    def attainment(self, rate: float, seeds: Sequence[int]) -> float:
        """The mean over the seeds."""
        return sum(self.attainments(rate, seeds)) / len(seeds)

    def attainments(self, rate: float, seeds: Sequence[int]) -> list[float]:
        """Share of the offered requests that meet their objective, by seed."""
        return [self._attainment(rate, seed) for seed in seeds]

    def _attainment(self, rate: float, seed: int) -> float:
        records = SimCluster(self._cluster).run(self._arrivals(rate, seed), seed).requests
        return sum(record.meets_slo for record in records) / len(records)

    def _arrivals(self, rate: float, seed: int) -> list[Arrival]:
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
