"""What is compared: models on GPUs, data sets with their objectives, and systems."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rondo.perf.profile import load_profile
from rondo.types import Slo
from rondo_bench.sim.spec import ClusterSpec
from rondo_bench.sim.workload import WorkloadSpec

SEEDS = (1, 2, 3)
NUM_INSTANCES = 8

#: Tensor parallelism of each model on each GPU, as in EcoServe's evaluation.
PROFILES = {
    ("llama-30b", "l20"): "llama-30b-l20-tp4",
    ("codellama-34b", "l20"): "codellama-34b-l20-tp4",
    ("qwen2-72b", "l20"): "qwen2-72b-l20-tp8",
    ("llama-30b", "a100"): "llama-30b-a100-tp2",
    ("codellama-34b", "a100"): "codellama-34b-a100-tp2",
    ("qwen2-72b", "a100"): "qwen2-72b-a100-tp4",
    ("llama-30b", "h100"): "llama-30b-h100-tp2",
    ("codellama-34b", "h100"): "codellama-34b-h100-tp2",
    ("qwen2-72b", "h100"): "qwen2-72b-h100-tp4",
}
MODELS = ("llama-30b", "codellama-34b", "qwen2-72b")
GPUS = ("l20", "a100", "h100")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Lengths matched to EcoServe's table, its objective, and how long a run is.

    A run has `num_requests` at least, and as many more as come in `span_s` (up to a limit): a run
    that is over before the first answers end shows no capacity, whatever the number of requests.
    """

    name: str
    file: str
    slo: Slo
    num_requests: int
    span_s: float = 0.0

    def requests_at(self, rate: float) -> int:
        """Requests of a run at a rate."""
        return max(self.num_requests, min(MOST_REQUESTS, round(rate * self.span_s)))

    def offered(
        self, lengths: str, rate: float = 1.0, seed: int = 0, cv: float = 1.0
    ) -> WorkloadSpec:
        """The workload of a run; `lengths` is the folder of the length files."""
        return WorkloadSpec(
            lengths=f"{lengths}/{self.file}",
            rate=rate,
            cv=cv,
            seed=seed,
            num_requests=self.requests_at(rate),
        )


SPAN_S = 100.0
MOST_REQUESTS = 10_000
DATASETS = (
    Dataset(
        "alpaca", "ecoserve_matched_alpaca_20k.csv.gz", Slo(ttft_s=1.0, tpot_s=0.1), 1000, SPAN_S
    ),
    Dataset(
        "sharegpt",
        "ecoserve_matched_sharegpt_20k.csv.gz",
        Slo(ttft_s=5.0, tpot_s=0.1),
        1000,
        SPAN_S,
    ),
    Dataset(
        "longbench",
        "ecoserve_matched_longbench_20k.csv.gz",
        Slo(ttft_s=15.0, tpot_s=0.1),
        800,
        SPAN_S,
    ),
)

#: Token budgets that a chunked baseline is tuned over.
CHUNK_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096)
#: Limits of a prefill step that a baseline with separate batches is tuned over.
PREFILL_TOKENS = (2048, 4096, 8192)


@dataclass(frozen=True, slots=True)
class Case:
    """One model on one GPU under one data set."""

    model: str
    gpu: str
    dataset: Dataset

    def cluster(self, policy: str, num_instances: int = NUM_INSTANCES) -> ClusterSpec:
        """The cluster that serves it under a policy."""
        return ClusterSpec(
            profile=load_profile(PROFILES[self.model, self.gpu]),
            policy=policy,
            num_instances=num_instances,
            slo=self.dataset.slo,
        )


def dataset(name: str) -> Dataset:
    """A data set by name."""
    return next(item for item in DATASETS if item.name == name)


@dataclass(frozen=True, slots=True)
class Folders:
    """Where experiments read and write."""

    lengths: Path
    results: Path
    cache: Path = field(default=Path(".cache/experiments"))
