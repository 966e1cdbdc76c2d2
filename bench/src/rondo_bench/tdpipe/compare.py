"""TD-Pipe beside its rivals on the simulated pipeline: the best of what each can be set to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rondo.policy.tdpipe import PipeSettings, TdPipeSettings
from rondo_bench.tdpipe.model import ModelShape
from rondo_bench.tdpipe.simulated import (
    BUDGETS,
    HYBRID,
    Request,
    Row,
    best,
    simulate,
    simulate_tensor_parallel,
)

Say = Callable[[str], None]
#: Batch limits that the rivals and TD-Pipe are tried with; vLLM's own is 256.
MAX_BATCHES = (128, 256, 384, 1024)
PREFILL_TOKENS = (512, 1024)
#: TD-Pipe as the paper has it, with prefill steps of 1,024 tokens (best of 512, 1,024 and 2,048).
PAPER = TdPipeSettings()
#: With two additions: batches sized to the tiles, prefill steps no longer than decode steps.
EVEN = TdPipeSettings(size=True, even=True, kv_share=0.97)
#: And with stealing that evens cached tokens, too.
LEVEL = TdPipeSettings(size=True, even=True, level=True, kv_share=0.97)


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
    paper: Row
    """TD-Pipe as the paper has it."""
    whole: Row
    """TD-Pipe with all parts, the paper's and ours."""
    tensor_parallel: dict[str, Row] = field(default_factory=dict)
    best_possible: float = 0.0
    """Tokens a second; see `bound`."""
    parts: list[Row] = field(default_factory=list)
    fused_parts: list[Row] = field(default_factory=list)
    errors: list[tuple[str, Row, Row]] = field(default_factory=list)
    ordered: list[Row] = field(default_factory=list)
    """The rivals, given our order."""
    draws: list[tuple[str, Mapping[str, Row]]] = field(default_factory=list)


def compare(
    shape: ModelShape, requests: Sequence[Request], num_stages: int, say: Say
) -> Mapping[str, Row]:
    """The best run of each scheduler, by name."""
    return compare_all(Job(shape, requests, num_stages, say)).rows


def compare_all(job: Job) -> ModelStudy:
    """Each scheduler with what it can be set to."""
    separate, hybrids = run_rivals(job)
    paper = job.run("tdpipe", "tdpipe, as in the paper", PipeSettings(tdpipe=PAPER))
    whole = best(
        [
            job.run("tdpipe", "tdpipe, even steps", PipeSettings(tdpipe=EVEN)),
            job.run("tdpipe", "tdpipe, even steps and cached tokens", PipeSettings(tdpipe=LEVEL)),
        ]
    )
    rows = {
        "tdpipe": best([whole, paper]),
        "tdpipe-fused": job.run("tdpipe-fused", "tdpipe-fused", PipeSettings()),
        "pp-separate": best(separate),
        HYBRID: best(hybrids),
    }
    return ModelStudy(rows, hybrids, paper, whole)


def run_rivals(job: Job) -> tuple[list[Row], list[Row]]:
    """`pp-separate` and `pp-hybrid` with all that they are tried with."""
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
    return separate, hybrids


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
