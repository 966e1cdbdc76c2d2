"""What the page of the simulated pipeline is made of: ablations, orders, predictions, draws."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from rondo.policy.plan import Job as PolicyJob
from rondo.policy.tdpipe import FusedSettings, PipeSettings
from rondo.policy.tdpipe.order import Pace, in_time
from rondo_bench.tdpipe.bound import best_tokens_per_s
from rondo_bench.tdpipe.compare import (
    Job,
    ModelStudy,
    Say,
    compare_all,
    try_tensor_parallel,
)
from rondo_bench.tdpipe.model import BLOCK_SIZE, SHAPES
from rondo_bench.tdpipe.simulated import (
    HYBRID,
    NO_LIMIT,
    ORDERED,
    Request,
    best,
    draw_requests,
)

#: Deviations of a log-normal error of the predictions.
ERRORS = (0.0, 0.5, 1.0)
#: Other jobs, by their seed's distance.
DRAWS = (1, 2)


def ablate_plain(job: Job, study: ModelStudy) -> None:
    """Takes the parts of `tdpipe` away, one at a time."""

    whole = study.whole.settings.tdpipe

    def without(label: str, *variants: Mapping[str, float]) -> None:
        knobs = [msgspec.structs.replace(whole, **each) for each in variants]
        runs = [job.run("tdpipe", label, PipeSettings(tdpipe=each)) for each in knobs]
        study.parts.append(best(runs))

    fills = [{"greedy": False, "fixed_fill": share} for share in (0.5, 0.7, 0.9)]
    without("prefill until a fixed part of the pool is full (best of 50, 70, 90 %)", *fills)
    without("every answer predicted as the mean of those that ended", {"predict": False})
    without("no work stealing", {"steal": False})
    returns = [{"compare": False, "fixed_return": share} for share in (0.1, 0.3, 0.5)]
    without("back to prefill when a fixed part has ended (best of 10, 30, 50 %)", *returns)
    without("no sizing to tiles", {"size": False})
    without("prefill steps of whole prompts, up to 1,024 tokens", {"even": False})


def ablate_fused(job: Job, study: ModelStudy) -> None:
    """Takes the parts of `tdpipe-fused` away, one at a time."""

    def without(label: str, knobs: FusedSettings) -> None:
        study.fused_parts.append(job.run("tdpipe-fused", label, PipeSettings(fused=knobs)))

    without("no sizing to tiles", FusedSettings(size=False))
    without("stealing evens requests, not cached tokens", FusedSettings(level=False))
    without("first come, first served", FusedSettings(order=False))


def order_rivals(job: Job, study: ModelStudy) -> None:
    """Gives our order to the rivals: what it is worth without anything else of ours."""
    moved = Job(job.shape, in_our_order(job), job.num_stages, job.say)
    for name in ("pp-separate", HYBRID):
        rival = study.rows[name]
        study.ordered.append(moved.run(name, f"{rival.label}, in our order", rival.settings))


def in_our_order(job: Job) -> list[Request]:
    """The requests in the order in which `tdpipe-fused` takes them."""
    waiting = {
        str(place): PolicyJob(str(place), each.prompt, each.output, each.predicted, NO_LIMIT, 0.0)
        for place, each in enumerate(job.requests)
    }
    fused = FusedSettings()
    pool_tokens = job.shape.num_blocks(job.num_stages) * BLOCK_SIZE
    pace = Pace(job.num_stages * fused.step_tokens, fused.kv_share * pool_tokens)
    order = in_time(waiting, lambda each: each.predicted_tokens, pace, fused.tail)
    return [job.requests[int(place)] for place in order]


def vary_job(job: Job, study: ModelStudy, lengths: Path, max_prompt: int, seed: int) -> None:
    """Other draws from the same file."""
    for distance in DRAWS:
        requests = draw_requests(lengths, len(job.requests), max_prompt, seed + distance)
        other = Job(job.shape, requests, job.num_stages, job.say)
        rows = dict(compare_all(other).rows)
        moved = Job(job.shape, in_our_order(other), job.num_stages, job.say)
        hybrid = rows[HYBRID]
        rows[ORDERED] = moved.run(HYBRID, f"{hybrid.label}, in our order", hybrid.settings)
        study.draws.append((f"seed {seed + distance}", rows))


def vary_error(job: Job, study: ModelStudy, lengths: Path, max_prompt: int, seed: int) -> None:
    """The same requests with other predictions."""
    cases: list[tuple[str, float | None]] = [("the file's (near-oracle)", None)]
    cases += [(f"true length x e^N(0, {error})" if error else "exact", error) for error in ERRORS]
    for label, error in cases:
        requests = draw_requests(lengths, len(job.requests), max_prompt, seed, spread=error)
        other = Job(job.shape, requests, job.num_stages, job.say)
        plain = other.run("tdpipe", f"tdpipe, predictions {label}", study.whole.settings)
        fused = other.run("tdpipe-fused", f"tdpipe-fused, {label}", PipeSettings())
        study.errors.append((label, plain, fused))


def study_all(
    lengths: Path, count: int, max_prompt: int, seed: int, num_stages: int, say: Say
) -> dict[str, ModelStudy]:
    """Everything, for every model."""
    requests = draw_requests(lengths, count, max_prompt, seed)
    studies: dict[str, ModelStudy] = {}
    for name, shape in SHAPES.items():
        job = Job(shape, requests, num_stages, say)
        study = studies[name] = compare_all(job)
        study.best_possible = best_tokens_per_s(shape, requests, num_stages)
        try_tensor_parallel(job, study)
        ablate_plain(job, study)
        ablate_fused(job, study)
        order_rivals(job, study)
        vary_job(job, study, lengths, max_prompt, seed)
        vary_error(job, study, lengths, max_prompt, seed)
    return studies
