"""The requests an engine knows: their tokens, and how many of those are in the KV pool.

Every engine keeps this record and checks each plan against it before it computes anything, so a
scheduler's mistake is an error with the requests' names and never a silently wrong token.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rondo.errors import EngineError
from rondo.policy.plan import PlanItem, StepPlan
from rondo_worker.engines.base import EngineRequest, EngineSpec


@dataclass(slots=True, eq=False)
class LiveSequence:
    """A request with its answer so far; `tokens` is prompt plus answer, `cached` of them in KV."""

    request: EngineRequest
    tokens: list[int]
    cached: int = 0
    output_counts: dict[int, int] = field(default_factory=dict)

    @classmethod
    def begin(cls, request: EngineRequest) -> LiveSequence:
        """A request of which nothing is computed yet."""
        sequence = cls(request, list(request.prompt))
        if request.num_resumed:
            sequence.output_counts.update(Counter(request.prompt[-request.num_resumed :]))
        return sequence

    def append(self, token: int) -> None:
        """The next token of the answer."""
        self.tokens.append(token)
        counts = self.output_counts
        counts[token] = counts.get(token, 0) + 1

    @property
    def fresh(self) -> bool:
        """Whether no token has been drawn yet."""
        return len(self.tokens) == len(self.request.prompt)

    @property
    def num_output(self) -> int:
        """Tokens of the answer so far, with those that another instance gave."""
        return len(self.tokens) - len(self.request.prompt) + self.request.num_resumed

    @property
    def own_prompt_tokens(self) -> int:
        """Tokens of the prompt without those of a resumed answer."""
        return len(self.request.prompt) - self.request.num_resumed

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's own logprobs are asked for and not sent yet."""
        return self.request.sampling.prompt_logprobs is not None and self.fresh


class SequenceTable:
    """All live sequences of an engine, by request id."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._live: dict[str, LiveSequence] = {}

    def add(self, request: EngineRequest) -> None:
        """Takes a request in.

        Raises:
            EngineError: the prompt is empty, too long or not of this vocabulary, or the id is live.
        """
        problem = self._problem(request)
        if problem:
            raise EngineError(f"request {request.request_id}: {problem}", (request.request_id,))
        self._live[request.request_id] = LiveSequence.begin(request)

    def remove(self, request_id: str) -> None:
        """Forgets a request; unknown ids are ignored."""
        self._live.pop(request_id, None)

    def clear(self) -> None:
        """Forgets all requests."""
        self._live.clear()

    def find(self, request_id: str) -> LiveSequence | None:
        """A live sequence, or None."""
        return self._live.get(request_id)

    def resolve(self, plan: StepPlan) -> list[LiveSequence]:
        """The sequences of a plan's items, in their order, after checking every item.

        Raises:
            EngineError: the plan does not fit what this engine knows; names all its requests.
        """
        rows: list[LiveSequence] = []
        items = plan.items
        for number, item in enumerate(items):
            sequence = self._live.get(item.request_id)
            problem = self._misfit(item, sequence, decode=number >= len(plan.chunks))
            if problem or sequence is None:
                ids = tuple(i.request_id for i in items)
                raise EngineError(f"request {item.request_id}: {problem}", ids)
            rows.append(sequence)
        if not rows:
            raise EngineError("an empty step plan")
        return rows

    def commit(
        self, plan: StepPlan, rows: list[LiveSequence], tokens: dict[str, int]
    ) -> dict[str, int]:
        """Records that the plan was computed and these tokens came out; returns them."""
        for item, sequence in zip(plan.items, rows, strict=True):
            sequence.cached = item.start + item.num_tokens
            token = tokens.get(item.request_id)
            if token is not None:
                sequence.append(token)
        return tokens

    def _problem(self, request: EngineRequest) -> str | None:
        spec = self._spec
        if request.request_id in self._live:
            return "is already known to the engine"
        if not request.prompt:
            return "the prompt is empty"
        if not 0 <= request.num_resumed < len(request.prompt):
            return f"{request.num_resumed} of {len(request.prompt)} tokens are said to be resumed"
        if min(request.prompt) < 0 or max(request.prompt) >= spec.vocab_size:
            return f"the prompt holds a token id outside 0..{spec.vocab_size - 1}"
        total = len(request.prompt) + request.max_tokens
        if total > spec.max_model_len:
            return f"prompt plus answer of {total} tokens, the model takes {spec.max_model_len}"
        return None

    def _misfit(self, item: PlanItem, sequence: LiveSequence | None, *, decode: bool) -> str | None:
        if sequence is None:
            return "is not known to the engine"
        end = item.start + item.num_tokens
        if item.num_tokens < 1 or item.start < 0 or end > len(sequence.tokens):
            return f"step over tokens {item.start}..{end} of {len(sequence.tokens)}"
        if decode and (item.num_tokens != 1 or end != len(sequence.tokens)):
            return f"decode step over tokens {item.start}..{end} of {len(sequence.tokens)}"
        # A scheduler may start over from full blocks that hold the first tokens already.
        if item.start != sequence.cached and (decode or item.start % self._spec.block_size):
            return f"step starts at token {item.start}, but {sequence.cached} are cached"
        if len(item.blocks) * self._spec.block_size < end:
            return f"{len(item.blocks)} KV blocks do not cover {end} tokens"
        return None
