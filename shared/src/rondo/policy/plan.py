"""A request on an instance, the plan of one engine step, and what the step brought."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rondo.policy.ledger import blocks_for
from rondo.types import Finished, FinishReason, Phase, RequestProgress, Slo, Started, StepStat


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


def _no_decodes() -> Sequence[PlanItem]:
    return ()


@dataclass(slots=True, eq=False)
class StepPlan:
    """One engine step: prompt chunks (PREFILL), one token each for all that decode (DECODE), or
    both in one pass (FUSED).

    Decodes are listed on demand, because a simulator needs only their number and the sum of their
    cached tokens. `background_tokens` as in `StepStat`. Valid until the step is committed.
    """

    phase: Phase
    chunks: Sequence[PlanItem] = ()
    num_decodes: int = 0
    context_tokens: int = 0
    list_decodes: Callable[[], Sequence[PlanItem]] = _no_decodes
    background_tokens: int = 0
    _decodes: Sequence[PlanItem] | None = None

    @property
    def decodes(self) -> Sequence[PlanItem]:
        """One item of one token for each sequence that decodes."""
        if self._decodes is None:
            self._decodes = self.list_decodes()
        return self._decodes

    @property
    def items(self) -> Sequence[PlanItem]:
        """Everything the step computes: chunks, then decodes."""
        return [*self.chunks, *self.decodes]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all chunks."""
        return sum(chunk.num_tokens for chunk in self.chunks)

    @property
    def pairs(self) -> int:
        """Sum of n (n + 2 ctx) over the chunks; see LatencyModel."""
        return sum(c.num_tokens * (c.num_tokens + 2 * c.start) for c in self.chunks)

    def stat(self, duration_s: float) -> StepStat:
        """The step as reports name it, with how long it took."""
        prompt_tokens = self.prompt_tokens
        return StepStat(
            self.phase,
            duration_s,
            len(self.chunks) + self.num_decodes,
            prompt_tokens + self.num_decodes,
            prompt_tokens,
            self.pairs,
            self.num_decodes,
            self.context_tokens,
            self.background_tokens,
        )


def plan_of(phase: Phase, items: Iterable[PlanItem]) -> StepPlan:
    """A plan of one phase from its items; for calibration and tests."""
    listed = tuple(items)
    if phase is Phase.PREFILL:
        return StepPlan(phase, listed)
    context = sum(item.start for item in listed)
    return StepPlan(phase, (), len(listed), context, lambda: listed)


@dataclass(slots=True, eq=False)
class Job:
    """A request on this instance.

    `tokens_out` and `cached` (tokens whose KV is in the pool) stand still while it decodes: the
    decode batch counts for all its sequences at once (`DecodeBatch`). `order` is that of arrival;
    `base_step` is the step count at which it joined the batch, None outside it; `end_step` the
    one at which it reaches `max_tokens`. `block_names` name the prompt's full blocks
    (`rondo.prefix`); without them its KV is not shared. `tail` has the tokens behind those blocks,
    to which the answer's are added, so that its blocks get names, too; None: they do not.
    A `background` one runs only in what the others leave over.
    """

    request_id: str
    prompt_tokens: int
    max_tokens: int
    predicted_tokens: int
    slo: Slo
    arrival_s: float
    ignore_eos: bool = False
    background: bool = False
    block_names: Sequence[bytes] = ()
    tail: list[int] | None = None
    order: int = 0
    tokens_out: int = 0
    cached: int = 0
    decode_start_s: float | None = None
    base_step: int | None = None
    end_step: int = 0
    num_preempted: int = 0

    @property
    def known(self) -> int:
        """Tokens that exist: the prompt and the answer so far."""
        return self.prompt_tokens + self.tokens_out

    def shareable(self, block_size: int) -> Sequence[bytes]:
        """Names of the blocks that it may take over: all but one that holds its last token."""
        return self.block_names[: (self.known - 1) // block_size]

    def final_blocks(self, block_size: int) -> int:
        """Blocks it is expected to own at its end."""
        answer = min(self.max_tokens, self.predicted_tokens)
        return blocks_for(self.prompt_tokens + answer, block_size)

    def progress(self, at_s: float, gained: int, *, granted: bool) -> RequestProgress:
        """As a full report names it, with the tokens that it gained since it joined its batch."""
        start_s = self.decode_start_s
        return RequestProgress(
            request_id=self.request_id,
            prompt_tokens=self.prompt_tokens,
            max_tokens=self.max_tokens,
            predicted_tokens=self.predicted_tokens,
            tokens_out=self.tokens_out + gained,
            slo=self.slo,
            age_s=at_s - self.arrival_s,
            decode_age_s=None if start_s is None else at_s - start_s,
            granted=granted,
            background=self.background,
        )


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token a step produced: its index in the answer, and whether it is the last."""

    request_id: str
    index: int
    token: int
    finish: FinishReason | None


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What a committed step changed. `tokens` is empty where the caller gave none."""

    tokens: tuple[NewToken, ...]
    prefilled: tuple[str, ...]
    started: tuple[Started, ...]
    finished: tuple[Finished, ...]
