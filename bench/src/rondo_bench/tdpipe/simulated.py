"""TD-Pipe and its rivals on a simulated pipeline of L20s: one job of requests with real lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job
from rondo.policy.tdpipe import PipeSettings, PipeSetup, make_scheduler
from rondo.types import LatencyModel, Slo
from rondo_bench.sim.lengths import load_lengths
from rondo_bench.tdpipe.model import BLOCK_SIZE, ModelShape, TensorParallel, load_model
from rondo_bench.tdpipe.pipeline import SimPipeline, bubble_share

#: ShareGPT's lengths, in tokens of prompt and answer, with predictions.
LENGTHS = Path("../shared/data/lengths/sharegpt_40k_with_predicted_output.csv.gz")
HYBRID = "pp-hybrid"
#: `pp-hybrid` with the requests in our order.
ORDERED = "pp-hybrid, ordered"
NAMES = ("tdpipe", "tdpipe-fused", "pp-separate", HYBRID)
BUDGETS = (128, 192, 256, 320, 384, 512, 1024, 2048)
#: Offline work has no limits; schedulers of a pipeline do not look at them.
NO_LIMIT = Slo(ttft_s=1e9, tpot_s=1e9)


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints of a scheduler. tokens_per_s: of answers, over the whole job.
    bubble_share: see `bubble_share`. phase_switches: changes between prefilling and decoding.
    recomputed: times that a request lost its KV and was prefilled again."""

    tokens_per_s: float
    bubble_share: float
    phase_switches: int
    recomputed: int


@dataclass(frozen=True, slots=True)
class Row:
    """One run: the figures, and what explains them."""

    label: str
    figures: Figures
    duration_s: float
    drain_s: float
    """After the last prompt had been prefilled."""
    num_steps: int
    settings: PipeSettings


@dataclass(frozen=True, slots=True)
class Request:
    """Lengths in tokens; `predicted` is what the schedulers are told."""

    prompt: int
    output: int
    predicted: int


def draw_requests(
    path: Path, count: int, max_prompt: int, seed: int, *, spread: float | None = None
) -> list[Request]:
    """Requests of a length file with predictions, drawn with replacement.

    `spread`: predictions are the true lengths times a log-normal factor with this deviation
    instead; 0 is exact.
    """
    table = load_lengths(path)
    rows = np.flatnonzero(table.prompt_tokens <= max_prompt)
    rng = np.random.default_rng(seed)
    drawn = rng.choice(rows, size=count)
    outputs = table.output_tokens[drawn]
    predicted = table.predicted_tokens[drawn] if table.predicted_tokens is not None else outputs
    if spread is not None:
        predicted = np.rint(outputs * np.exp(rng.normal(0.0, spread, size=count)))
    return [
        Request(int(p), int(o), max(1, int(e)))
        for p, o, e in zip(table.prompt_tokens[drawn], outputs, predicted, strict=True)
    ]


def simulate(
    name: str,
    shape: ModelShape,
    requests: Sequence[Request],
    num_stages: int,
    settings: PipeSettings,
    label: str = "",
) -> Row:
    """Runs the job once; virtual time, so the same input gives the same figures."""
    return simulate_with(
        name, load_model(shape), shape, requests, num_stages, num_stages, settings, label
    )


def simulate_tensor_parallel(
    name: str,
    shape: ModelShape,
    requests: Sequence[Request],
    num_gpus: int,
    settings: PipeSettings,
    label: str = "",
) -> Row:
    """The same job on the same cards with tensor parallelism: a pipeline of one stage."""
    latency = TensorParallel(load_model(shape), shape, num_gpus)
    return simulate_with(name, latency, shape, requests, 1, num_gpus, settings, label)


def simulate_with(
    name: str,
    latency: LatencyModel,
    shape: ModelShape,
    requests: Sequence[Request],
    num_stages: int,
    num_gpus: int,
    settings: PipeSettings,
    label: str = "",
) -> Row:
    """Runs the job on `num_stages` stages with the KV pool of `num_gpus` cards."""
    ledger = KvLedger(shape.num_blocks(num_gpus), BLOCK_SIZE)
    scheduler = make_scheduler(name, PipeSetup(ledger, latency, num_stages, settings))
    jobs = [
        Job(f"r{number}", each.prompt, each.output, each.predicted, NO_LIMIT, 0.0)
        for number, each in enumerate(requests)
    ]
    record = SimPipeline(scheduler, latency, shape.hop_s_per_token).run(jobs)
    scheduler.check_invariants()
    figures = Figures(
        tokens_per_s=record.tokens_out / record.duration_s,
        bubble_share=bubble_share(record),
        phase_switches=scheduler.num_phase_switches,
        recomputed=scheduler.num_preempted,
    )
    drain_s = record.duration_s - record.prompts_done_s
    return Row(label or name, figures, record.duration_s, drain_s, record.num_steps, settings)


def best(rows: Sequence[Row]) -> Row:
    """The run with the most tokens a second."""
    return max(rows, key=lambda row: row.figures.tokens_per_s)
