"""Instances specialised by predicted answer length: what that adds to `padg` on L20, if anything.

Every case is measured with all instances alike and with classes, offered the same requests and told
the same predictions: `exact`, for no predictor is better. One case is measured with two more:
`near`, with the errors of the best predictor that was published with its predictions, each drawn
from answers of about the same length, and `mean`, which says nothing about a request. Beside them
the ceiling of `rondo_bench.sim.capacity`: of instances that are alike, and of classes each of which
sees its own lengths only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from rondo.policy.catalog import PolicySettings
from rondo.policy.length_classes import LengthClasses, added_work_s
from rondo.policy.padg import PadgSettings
from rondo_bench.experiments.cases import NUM_INSTANCES, SEEDS, Case, Folders
from rondo_bench.experiments.grid import CEILING_RATE, HARDEST, all_cases
from rondo_bench.experiments.search import FINE, Job, Record, run_jobs
from rondo_bench.sim.capacity import ceiling
from rondo_bench.sim.cluster import SimCluster
from rondo_bench.sim.goodput import Goodput, GoodputSearch
from rondo_bench.sim.lengths import load_lengths
from rondo_bench.sim.records import Arrival
from rondo_bench.sim.spec import ClusterSpec
from rondo_bench.sim.workload import make_workload

GPU = "l20"
TARGETS = (HARDEST, 0.9)
DATASETS = ("longbench", "sharegpt", "alpaca")
#: Where predictions that are not exact are measured, too: `near` has errors of ShareGPT's answers.
ONE_MODEL, ONE_DATASET = "codellama-34b", "sharegpt"
RUN_SEEDS = SEEDS[:2]
#: One seed of Alpaca has more requests than two of the others.
SEEDS_OF = {"alpaca": RUN_SEEDS[:1]}
#: Classes of a run; 0: all instances are alike.
CLASSES = (0, 4)
#: Classes that the ceiling is worked out for.
CEILING_CLASSES = (2, 4, NUM_INSTANCES)
#: `padg` comes within a tenth of the ceiling on L20: a search begins at this share of it.
START_SHARE = 0.92
#: Answers with the predictions that another system made of them, and how many of about the same
#: length an error is drawn from.
PREDICTED_FILE = "sharegpt_40k_with_predicted_output.csv.gz"
ALIKE = 100
#: Stream of a seed that errors are drawn from, beside those of `rondo_bench.sim.workload`.
_ERRORS = 3


def run_lengths(folders: Folders, processes: int, say: Callable[[str], None]) -> list[Record]:
    """One record a case, target, prediction and number of classes."""
    cases, lengths = all_cases([GPU], DATASETS), str(folders.lengths)
    one = [case for case in cases if (case.model, case.dataset.name) == (ONE_MODEL, ONE_DATASET)]
    told = [("near", one), ("mean", one), ("exact", cases)]
    jobs = [Job(ceilings, (case, lengths)) for case in cases]
    jobs += [
        Job(measure, (case, prediction, classes, lengths))
        for prediction, chosen in told
        for case in chosen
        for classes in CLASSES
    ]
    records: list[Record] = []
    for _, found in run_jobs(jobs, folders.cache, processes):
        records += found
        for record in found:
            say(str(record))
    return records


def measure(case: Case, prediction: str, classes: int, lengths: str) -> list[Record]:
    """Goodput of a case at each target."""
    cluster = clustered(case, prediction, classes)

    def attainments(rate: float, seeds: Sequence[int]) -> list[float]:
        return [_attainment(cluster, offered(case, prediction, rate, s, lengths), s) for s in seeds]

    start = START_SHARE * ceiling(
        cluster, offered(case, "exact", CEILING_RATE, RUN_SEEDS[0], lengths)
    )
    seeds = SEEDS_OF.get(case.dataset.name, RUN_SEEDS)
    search = GoodputSearch(attainments, start, seeds, FINE)
    return [_record(case, prediction, classes, search.find(target)) for target in TARGETS]


def clustered(case: Case, prediction: str, classes: int) -> ClusterSpec:
    """The case's cluster with so many classes; predictions other than `mean` come with requests."""
    settings = PolicySettings(padg=PadgSettings(length_classes=classes))
    told = prediction if prediction != "near" else "file"
    return replace(case.cluster("padg"), settings=settings, prediction=told)


def offered(case: Case, prediction: str, rate: float, seed: int, lengths: str) -> list[Arrival]:
    """A run's requests; with `near` predictions, the same ones at every rate."""
    arrivals = make_workload(case.dataset.offered(lengths, rate, seed))
    if prediction != "near":
        return arrivals
    true_tokens, ratios = _errors(lengths)
    rng = np.random.default_rng([seed, _ERRORS])
    answers = np.array([arrival.output_tokens for arrival in arrivals])
    beside = rng.integers(-ALIKE // 2, ALIKE // 2, len(answers))
    rows = np.clip(np.searchsorted(true_tokens, answers) + beside, 0, len(ratios) - 1)
    predicted = answers * ratios[rows]
    return [
        msgspec.structs.replace(arrival, predicted_tokens=max(1, round(tokens)))
        for arrival, tokens in zip(arrivals, predicted.tolist(), strict=True)
    ]


def ceilings(case: Case, lengths: str) -> list[Record]:
    """What no schedule exceeds for long: with all instances alike, and with classes, each of which
    has the share of the instances that its work needs, not just whole ones."""
    cluster = case.cluster("padg")
    arrivals = offered(case, "exact", CEILING_RATE, RUN_SEEDS[0], lengths)
    rates = {0: ceiling(cluster, arrivals)}
    for num in CEILING_CLASSES:
        parts = _parts(cluster, arrivals, num)
        each = [len(part) / ceiling(cluster, part) for part in parts if part]
        rates[num] = len(arrivals) / sum(each)
    return [
        _record(case, "ceiling", num, Goodput(HARDEST, rate, rate, rate, []))
        for num, rate in rates.items()
    ]


def _parts(cluster: ClusterSpec, arrivals: Sequence[Arrival], num: int) -> list[list[Arrival]]:
    """The requests of each class, as the policy would make them of exact predictions."""
    classes, latency = LengthClasses(num), cluster.latency()
    for arrival in arrivals:
        work_s = added_work_s(latency, arrival.prompt_tokens, arrival.output_tokens)
        classes.see(arrival.output_tokens, work_s)
    parts: list[list[Arrival]] = [[] for _ in range(num)]
    for arrival in arrivals:
        parts[classes.share(arrival.output_tokens, num).start].append(arrival)
    return parts


@cache
def _errors(lengths: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Answers in ascending order, and what was predicted over what they were."""
    table = load_lengths(Path(lengths) / PREDICTED_FILE)
    assert table.predicted_tokens is not None
    order = np.argsort(table.output_tokens, kind="stable")
    true_tokens = table.output_tokens[order]
    return true_tokens, table.predicted_tokens[order] / true_tokens


def _attainment(cluster: ClusterSpec, arrivals: Sequence[Arrival], seed: int) -> float:
    records = SimCluster(cluster).run(arrivals, seed).requests
    return sum(record.meets_slo for record in records) / len(records)


def _record(case: Case, prediction: str, classes: int, found: Goodput) -> Record:
    return {
        "model": case.model,
        "gpu": case.gpu,
        "dataset": case.dataset.name,
        "target": found.target,
        "prediction": prediction,
        "classes": classes,
        "rate": round(found.rate, 4),
        "low": round(found.low, 4),
        "high": round(found.high, 4),
    }
