"""A request on an instance, the plan of one engine step, and what the step brought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rondo.types import Finished, FinishReason, Phase, Slo


@dataclass(frozen=True, slots=True)
class PlanItem:
    """Compute `num_tokens` tokens of a request, after `start` cached ones.

    `blocks` is its block table, covering `start + num_tokens` tokens: a live view that is valid
    during the step only.
    """

    request_id: str
    start: int
    num_tokens: int
    blocks: Sequence[int]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One engine step. In a DECODE step each item has one token."""

    phase: Phase
    items: tuple[PlanItem, ...]


@dataclass(slots=True, eq=False)
class Job:
    """A request on this instance. `cached` counts tokens whose KV is in the pool."""

    request_id: str
    prompt_tokens: int
    max_tokens: int
    predicted_tokens: int
    slo: Slo
    arrival_s: float
    ignore_eos: bool = False
    order: int = 0
    tokens_out: int = 0
    cached: int = 0
    decode_start_s: float | None = None

    @property
    def known(self) -> int:
        """Tokens that exist: the prompt and the answer so far."""
        return self.prompt_tokens + self.tokens_out

    def final_tokens(self) -> int:
        """Tokens it is expected to have at its end."""
        answer = min(self.max_tokens, max(self.predicted_tokens, self.tokens_out + 1))
        return self.prompt_tokens + answer


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token a step produced: its index in the answer, and whether it is the last."""

    request_id: str
    index: int
    token: int
    finish: FinishReason | None


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What a committed step changed."""

    tokens: tuple[NewToken, ...]
    prefilled: tuple[str, ...]
    finished: tuple[Finished, ...]
    context_tokens: int
