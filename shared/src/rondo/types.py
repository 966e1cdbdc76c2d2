"""Plain values that policies, messages, engines and the simulator share. No I/O, no behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

import msgspec


class Phase(str, Enum):
    """What an instance is doing. A step is wholly one phase or the other."""

    IDLE = "idle"
    PREFILL = "prefill"
    DECODE = "decode"


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


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen. Temperature 0 is greedy; top_k 0 and top_p 1 switch off.

    A given seed yields the same tokens whatever else is in the batch: the random number of a token
    is a function of the seed and the token's index alone.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0


class KvOccupancy(msgspec.Struct, frozen=True, kw_only=True):
    """KV blocks of an instance: total = used + free; `reserved` is the part of free (or more,
    when predictions were short) that admitted requests are expected to grow into."""

    total_blocks: int
    used_blocks: int
    free_blocks: int
    reserved_blocks: int


class RequestInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a scheduler knows of a request. `arrival_s` is on the scheduler's own clock."""

    request_id: str
    prompt_tokens: int
    max_tokens: int
    predicted_tokens: int
    slo: Slo
    arrival_s: float


class RequestProgress(msgspec.Struct, frozen=True, kw_only=True):
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


class Finished(msgspec.Struct, frozen=True, array_like=True):
    """The end of a request on an instance."""

    request_id: str
    reason: FinishReason
    tokens_out: int


class StepStat(msgspec.Struct, frozen=True, array_like=True):
    """One engine step: its phase, wall time, sequences in it, new tokens, context before it."""

    phase: Phase
    duration_s: float
    num_sequences: int
    num_tokens: int
    context_tokens: int


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What happened on an instance since its last report, and where it stands now.

    `decode_steps` counts decode steps since the instance started; every running request got one
    token in each. `members` is the full state and present only when asked for or on a heartbeat.
    """

    phase: Phase
    turn: int
    decode_steps: int
    num_running: int
    num_waiting: int
    kv: KvOccupancy
    prefilled: tuple[str, ...] = ()
    finished: tuple[Finished, ...] = ()
    steps: tuple[StepStat, ...] = ()
    members: tuple[RequestProgress, ...] | None = None


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """A piece of one prompt in a prefill step: new tokens, after `context` cached ones."""

    num_tokens: int
    context: int


class LatencyModel(Protocol):
    """Predicts step times of one instance, in seconds."""

    def prefill_s(self, chunks: Sequence[Chunk]) -> float:
        """Duration of one prefill step over these chunks."""
        ...

    def decode_s(self, num_sequences: int, context_tokens: int) -> float:
        """Duration of one decode step; `context_tokens` is summed over the batch."""
        ...
