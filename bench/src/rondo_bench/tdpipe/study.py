"""What is run of the simulated pipeline: the comparison, the ablations, the predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rondo.policy.plan import Job as PolicyJob
from rondo.policy.tdpipe import FusedSettings, PipeSettings, TdPipeSettings
from rondo.policy.tdpipe.order import spread_out
from rondo_bench.tdpipe.model import SHAPES, ModelShape
from rondo_bench.tdpipe.simulated import (
    BUDGETS,
    HYBRID,
    NO_LIMIT,
    Request,
    Row,
    best,
    draw_requests,
    simulate,
    simulate_tensor_parallel,
)

Say = Callable[[str], None]
#: Batch limits that the rivals and TD-Pipe are tried with; vLLM's own is 256.
MAX_BATCHES = (128, 256, 384, 1024)
PREFILL_TOKENS = (512, 1024)
#: TD-Pipe as the paper has it, and with batches sized to the tiles, which its authors leave to
#: chance. Prefill steps of 1,024 tokens were best of 512, 1,024 and 2,048.
PAPER = TdPipeSettings()
SIZED = TdPipeSettings(size=True, kv_share=0.97)
#: Deviations of a log-normal error of the predictions.
ERRORS = (0.0, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Job:
    """What all runs of one model share."""

    shape: ModelShape
    requests: Sequence[Request]
    num_stages: int
    say: Say

    def run(self, name: str, label: str, settings: PipeSettings) -> Row:
        """One run, told to the user."""
        row = simulate(name, self.shape, self.requests, self.num_stages, settings, label)
        self.say(f"{self.shape.name}: {label}: {row.figures.tokens_per_s:.0f} tokens/s")
        return row


@dataclass(slots=True)
class ModelStudy:
    """All runs of one model."""

    rows: dict[str, Row]
    hybrids: list[Row]
    tensor_parallel: dict[str, Row] = field(default_factory=dict)
    parts: list[Row] = field(default_factory=list)
    fused_parts: list[Row] = field(default_factory=list)
    errors: list[tuple[str, Row, Row]] = field(default_factory=list)


def compare(
    shape: ModelShape, requests: Sequence[Request], num_stages: int, say: Say
) -> Mapping[str, Row]:
    """The best run of each scheduler, by name."""
    return compare_all(Job(shape, requests, num_stages, say)).rows


def compare_all(job: Job) -> ModelStudy:
    """Each scheduler with what it can be set to."""
    hybrids = [
        job.run(HYBRID, f"pp-hybrid, {tokens} tokens", PipeSettings(budget_tokens=tokens))
        for tokens in BUDGETS
    ]
    separate = [
        job.run(
            "pp-separate",
            f"pp-separate, {tokens} tokens, {most} sequences",
            PipeSettings(prefill_tokens=tokens, max_batch=most),
        )
        for tokens in PREFILL_TOKENS
        for most in MAX_BATCHES
    ]
    ours = [
        job.run("tdpipe", "tdpipe, as in the paper", PipeSettings(tdpipe=PAPER)),
        job.run("tdpipe", "tdpipe, sized batches", PipeSettings(tdpipe=SIZED)),
    ]
    fused = job.run("tdpipe-fused", "tdpipe-fused", PipeSettings())
    rows = {
        "tdpipe": best(ours),
        "tdpipe-fused": fused,
        "pp-separate": best(separate),
        HYBRID: best(hybrids),
    }
    study = ModelStudy(rows, hybrids)
    study.parts.append(ours[0])
    return study


def ablate(job: Job, study: ModelStudy) -> None:
    """Takes the parts of both kinds of TD-Pipe away, one at a time."""

    def plain(label: str, *variants: TdPipeSettings) -> None:
        runs = [job.run("tdpipe", label, PipeSettings(tdpipe=each)) for each in variants]
        study.parts.append(best(runs))

    def sized(**knobs: object) -> TdPipeSettings:
        return TdPipeSettings(**{"size": True, "kv_share": 0.97, **knobs})  # type: ignore[arg-type]

    plain("all four parts, sized batches", SIZED)
    fills = [sized(greedy=False, fixed_fill=share) for share in (0.5, 0.7, 0.9)]
    plain("prefill until a fixed part of the pool is full (best of 50, 70, 90 %)", *fills)
    plain("every answer predicted as the mean of those that ended", sized(predict=False))
    plain("no work stealing", sized(steal=False))
    returns = [sized(compare=False, fixed_return=share) for share in (0.1, 0.3, 0.5)]
    plain("back to prefill when a fixed part has ended (best of 10, 30, 50 %)", *returns)

    def fused(label: str, settings: FusedSettings) -> None:
        study.fused_parts.append(job.run("tdpipe-fused", label, PipeSettings(fused=settings)))

    fused("no sizing to tiles", FusedSettings(size=False))
    fused("stealing evens requests, not cached tokens", FusedSettings(level=False))
    fused("first come, first served", FusedSettings(longest_spread=0.0))
    ordered = PipeSettings(budget_tokens=int(study.rows[HYBRID].label.split()[1]))
    moved = Job(job.shape, in_fused_order(job.requests), job.num_stages, job.say)
    study.fused_parts.append(moved.run(HYBRID, "pp-hybrid given the same order", ordered))


def in_fused_order(requests: Sequence[Request]) -> list[Request]:
    """The requests in the order in which `tdpipe-fused` takes them."""
    waiting = {
        str(place): PolicyJob(str(place), each.prompt, each.output, each.predicted, NO_LIMIT, 0.0)
        for place, each in enumerate(requests)
    }
    order = spread_out(waiting, FusedSettings().longest_spread)
    return [requests[int(place)] for place in order]


def vary_error(job: Job, study: ModelStudy, lengths: Path, max_prompt: int, seed: int) -> None:
    """The same requests with other predictions."""
    cases: list[tuple[str, float | None]] = [("the file's (near-oracle)", None)]
    cases += [(f"true length x e^N(0, {error})" if error else "exact", error) for error in ERRORS]
    for label, error in cases:
        requests = draw_requests(lengths, len(job.requests), max_prompt, seed, spread=error)
        other = Job(job.shape, requests, job.num_stages, job.say)
        plain = other.run("tdpipe", f"tdpipe, predictions {label}", PipeSettings(tdpipe=SIZED))
        fused = other.run("tdpipe-fused", f"tdpipe-fused, {label}", PipeSettings())
        study.errors.append((label, plain, fused))


def try_tensor_parallel(job: Job, study: ModelStudy) -> None:
    """The rivals on the same cards with tensor parallelism, over PCIe."""

    def run(name: str, label: str, settings: PipeSettings) -> Row:
        return simulate_tensor_parallel(
            name, job.shape, job.requests, job.num_stages, settings, label
        )

    study.tensor_parallel["tp-separate"] = best(
        [
            run("pp-separate", "tensor parallel, separate", PipeSettings(max_batch=most))
            for most in MAX_BATCHES
        ]
    )
    study.tensor_parallel["tp-hybrid"] = best(
        [
            run(
                HYBRID,
                f"tensor parallel, hybrid, {tokens} tokens",
                PipeSettings(budget_tokens=tokens),
            )
            for tokens in BUDGETS
        ]
    )


def study_all(
    lengths: Path, count: int, max_prompt: int, seed: int, num_stages: int, say: Say
) -> dict[str, ModelStudy]:
    """Everything, for every model."""
    requests = draw_requests(lengths, count, max_prompt, seed)
    studies: dict[str, ModelStudy] = {}
    for name, shape in SHAPES.items():
        job = Job(shape, requests, num_stages, say)
        study = studies[name] = compare_all(job)
        try_tensor_parallel(job, study)
        ablate(job, study)
        vary_error(job, study, lengths, max_prompt, seed)
    return studies
