"""Plain values that policies, messages, engines and the simulator share. No I/O, no behaviour."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import msgspec


class Phase(str, Enum):
    """What an instance is doing; in a FUSED step prompt chunks and decodes share the pass."""

    IDLE = "idle"
    PREFILL = "prefill"
    DECODE = "decode"
    FUSED = "fused"


class BatchKind(str, Enum):
    """What an instance puts into a step while granted prompts wait.

    SEPARATE: prompts alone, decodes wait (vLLM before 0.8; EcoServe's turns). CHUNKED: every
    decode, then prompt chunks up to the budget (Sarathi). FUSED: prompt chunks, and the requests
    that decoded before the turn ride along; those of the turn wait for its end.
    """

    SEPARATE = "separate"
    CHUNKED = "chunked"
    FUSED = "fused"


class Batching(msgspec.Struct, frozen=True, kw_only=True):
    """How an instance fills its steps. `tokens` is the budget of a step: prompt tokens, in CHUNKED
    decodes included; 0 takes the instance's own limit."""

    kind: BatchKind = BatchKind.SEPARATE
    tokens: int = 0


class FinishReason(str, Enum):
    """Why a request ended. STOP and LENGTH are OpenAI's; the others never reach a client."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


class Slo(msgspec.Struct, frozen=True, kw_only=True):
    """Latency objectives of a request, in seconds: TTFT (with the phase-switch wait) and TPOT."""

    ttft_s: float
    tpot_s: float


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the next token is chosen. Temperature 0 is greedy; top_k 0 and top_p 1 switch off.

    A given seed yields the same tokens whatever else is in the batch: the random number of a token
    is a function of the seed and the token's index alone.

    Until `min_tokens` are there, neither an end token nor one of `stop_token_ids` is drawn (what
    the latter end, the gateway ends). `grammar` is llguidance's; empty: any text. `logprobs` and
    `prompt_logprobs` ask for that many best alternatives beside each token; None: no logprobs.
    `embed` asks for the prompt's embedding, with the first token; nobody reads that one.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    grammar: str = ""
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    embed: bool = False


class KvOccupancy(msgspec.Struct, frozen=True, kw_only=True):
    """KV blocks of an instance: total = used + free; `reserved` is the part of free (or more,
    when predictions were short) that admitted requests are expected to grow into; `background` is
    the part of used that background requests give up as soon as others want it."""

    total_blocks: int
    used_blocks: int
    free_blocks: int
    reserved_blocks: int
    background_blocks: int = 0


class KvSpace(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """KV blocks that an instance policy has promised ahead of their use, and requests that wait
    for some while they decode.

    `owned_blocks` are set aside for one request each, those that it uses already included; of them
    `lent_blocks` are let to others until their owners grow into them, who have so many
    `borrowed_blocks`. `kept_back_blocks` are for answers that turn out longer than predicted;
    `num_paused` requests keep their blocks and wait for more.
    """

    owned_blocks: int
    lent_blocks: int = 0
    borrowed_blocks: int = 0
    kept_back_blocks: int = 0
    num_paused: int = 0


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A macro-instance and who belongs to it; what drains from it gets nothing new."""

    macro_id: str
    instance_ids: tuple[str, ...]
    draining: tuple[str, ...] = ()


class MacroLoad(msgspec.Struct, frozen=True, kw_only=True):
    """Load of a macro-instance, as its owner sees it.

    `free_blocks` is of the instance that has most. `saved_tpot_s` is the mean over what decodes,
    None when nothing does. `instance_rate` is what one instance can serve of what came lately, in
    requests/s; None: not known yet. The others count from the beginning of the owner's epoch:
    requests that began to decode, the sums of their TTFT and of its limits, and what was refused
    for load.
    """

    num_pending: int = 0
    num_running: int = 0
    free_blocks: int = 0
    block_size: int = 1
    saved_tpot_s: float | None = None
    instance_rate: float | None = None
    num_served: int = 0
    ttft_s: float = 0.0
    ttft_limit_s: float = 0.0
    num_refused: int = 0


class RequestInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a scheduler knows of a request. `arrival_s` is on the scheduler's own clock; what is
    `background` runs only in what others leave over."""

    request_id: str
    prompt_tokens: int
    max_tokens: int
    predicted_tokens: int
    slo: Slo
    arrival_s: float
    background: bool = False


class RequestProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A live request as its instance sees it, complete enough to rebuild a scheduler from.

    `granted` is False while its prompt waits there without a turn. `decode_age_s` is the time since
    its decode started; None while it still waits for that.
    """

    request_id: str
    prompt_tokens: int
    max_tokens: int
    predicted_tokens: int
    tokens_out: int
    slo: Slo
    age_s: float
    decode_age_s: float | None
    granted: bool = True
    background: bool = False


class Finished(msgspec.Struct, frozen=True, array_like=True):
    """The end of a request on an instance."""

    request_id: str
    reason: FinishReason
    tokens_out: int


class Started(msgspec.Struct, frozen=True, array_like=True):
    """A request's decode began with the decode step after the instance's `base_step`-th."""

    request_id: str
    base_step: int


class FoundPrefix(msgspec.Struct, frozen=True, array_like=True):
    """The KV of a waiting prompt's first `num_tokens` tokens is on the instance already."""

    request_id: str
    num_tokens: int


class StepStat(msgspec.Struct, frozen=True, array_like=True):
    """One engine step: its phase, wall time, sequences, new tokens, cached tokens before them.

    From `prompt_tokens` to `context_tokens` they are what a LatencyModel predicts its time from;
    `num_tokens` counts prompt tokens and one for each sequence that decodes. Of these,
    `background_tokens` are of background requests; where there are any, all prompt tokens are,
    except on a pipeline, which does not keep the two apart.
    """

    phase: Phase
    duration_s: float
    num_sequences: int
    num_tokens: int
    prompt_tokens: int
    pairs: int
    num_decodes: int
    context_tokens: int
    background_tokens: int = 0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What happened on an instance since its last report, and where it stands now.

    `decode_steps` counts steps with decodes since the instance started; every request that decodes
    got one token in each. `members` is the full state and present only when asked for or on a
    heartbeat. `peak_bytes` is the most memory that the engine had held by then, and `space` what is
    promised of the pool, where anything is: both are for people to see.
    """

    phase: Phase
    turn: int
    decode_steps: int
    num_running: int
    num_waiting: int
    kv: KvOccupancy
    found: tuple[FoundPrefix, ...] = ()
    prefilled: tuple[str, ...] = ()
    started: tuple[Started, ...] = ()
    finished: tuple[Finished, ...] = ()
    steps: tuple[StepStat, ...] = ()
    members: tuple[RequestProgress, ...] | None = None
    peak_bytes: int = 0
    space: KvSpace | None = None


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """A piece of one prompt in a prefill step: new tokens, after `context` cached ones."""

    num_tokens: int
    context: int


class LatencyModel(Protocol):
    """Predicts step times of one instance, in seconds."""

    def step_s(self, tokens: int, pairs: int, num_decodes: int, context_tokens: int) -> float:
        """Duration of one step: `tokens` prompt tokens beside `num_decodes` decoding sequences.

        `pairs` is the sum of n (n + 2 ctx) over the chunks, `context_tokens` is summed over the
        sequences that decode. An empty step takes 0.
        """
        ...
