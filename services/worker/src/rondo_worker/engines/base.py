"""The contract between a worker's step loop and whatever computes the tokens.

The instance scheduler (`rondo.policy.instance`) owns the KV blocks and decides each step; an engine
executes exactly the step it is given. One thread owns an engine: it need not be thread-safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rondo.errors import EngineError
from rondo.logprobs import Logprobs
from rondo.policy.plan import StepPlan
from rondo.types import Sampling


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine can hold.

    `num_blocks` blocks of `block_size` tokens are the whole KV pool; `max_model_len` bounds prompt
    plus answer of one request, in tokens; token ids are below `vocab_size`. `weight_bytes` and
    `kv_bytes` are what weights and pool take, over all devices; 0: an engine without.
    """

    model: str
    engine: str
    max_model_len: int
    vocab_size: int
    block_size: int
    num_blocks: int
    eos_token_ids: tuple[int, ...]
    weight_bytes: int = 0
    kv_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A request as an engine needs it: the prompt's ids and how to sample.

    The last `num_resumed` tokens of the prompt are an answer's that began elsewhere: for seeds and
    penalties they belong to the answer.
    """

    request_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    ignore_eos: bool
    num_resumed: int = 0


class UnsupportedRequest(EngineError):
    """This engine cannot do what a request asks for; `param` is the parameter's name.

    It is the request's fault: such an error, even amid a step, says nothing about the engine."""

    def __init__(self, param: str, problem: str, request_ids: tuple[str, ...] = ()) -> None:
        super().__init__(problem, request_ids)
        self.param = param


def refuse_embedding(request: EngineRequest, engine: str) -> None:
    """For engines without embeddings.

    Raises:
        UnsupportedRequest: the request asks for one.
    """
    if request.sampling.embed:
        raise UnsupportedRequest("embed", f"the {engine} engine computes no embeddings")


class EngineGone(EngineError):
    """The engine is beyond repair, as when one of its processes died: nothing it held is left.

    Its requests are not to blame and can go on elsewhere."""


@dataclass(frozen=True, slots=True)
class StepLogprobs:
    """What a step brought beside its tokens, by request id, for those requests that ask for it.

    Logprobs: `tokens` has one row, of the new token; `prompts` every row of a prompt but its first
    token's, with the step that ended its prefill. `embeddings`, with that step too, are float32
    vectors of length 1 (`rondo.wire.codec.pack_floats`): the last prompt token's final hidden
    state, after the last norm.
    """

    tokens: Mapping[str, Logprobs] = field(default_factory=dict)
    prompts: Mapping[str, Logprobs] = field(default_factory=dict)
    embeddings: Mapping[str, bytes] = field(default_factory=dict)

    def joined(self, more: StepLogprobs) -> StepLogprobs:
        """These and more, of other requests."""
        if not (more.tokens or more.prompts or more.embeddings):
            return self
        return StepLogprobs(
            {**self.tokens, **more.tokens},
            {**self.prompts, **more.prompts},
            {**self.embeddings, **more.embeddings},
        )


NO_LOGPROBS = StepLogprobs()


class Engine(Protocol):
    """Computes tokens. Every method is called from one thread."""

    @property
    def spec(self) -> EngineSpec:
        """Limits and sizes; constant after construction."""
        ...

    def add(self, request: EngineRequest) -> None:
        """Makes a request known, before its first step.

        Raises:
            EngineError: the prompt is empty, holds an id outside the vocabulary, or is longer with
                its `max_tokens` than `max_model_len`; or the id is live already.
            UnsupportedRequest: its sampling asks for something that this engine does not do.
        """
        ...

    def remove(self, request_id: str) -> None:
        """Forgets a finished or aborted request; unknown ids are ignored."""
        ...

    def step(self, plan: StepPlan) -> dict[str, int]:
        """Executes the plan; returns the next token of each sequence that it completes.

        Each item's tokens `start .. start + num_tokens` of prompt-plus-answer-so-far are computed
        and their keys and values stored in its block table. What is before `start` is there: the
        request's own, or full blocks that another request with the same first tokens computed; an
        engine only reads those. A prefill item that does not reach
        the end of what is known yields no token. The engine appends returned tokens to its own
        record of the request, so the next decode step starts from them.

        Raises:
            EngineError: names the requests of the step; their state on the engine is undefined
                and they must be removed.
        """
        ...

    def take_logprobs(self) -> StepLogprobs:
        """What the last step brought for requests that ask for more than tokens; once."""
        ...

    def peak_bytes(self) -> int:
        """The most memory that the engine has held so far: of its CUDA devices what was allocated
        there, on a CPU the resident size of its processes. 0 when it is closed."""
        ...

    def close(self) -> None:
        """Frees everything."""
        ...
