"""Plain records of a simulated run: what arrived, what became of it, what the instances did.

Instants (`at_s`, `..._s` of an event) are seconds on the simulated clock, which starts at 0; spans
are seconds. The simulator writes these, `summary` reads them, and neither knows the other.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import msgspec

from rondo.types import Phase, Slo


class Arrival(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request of a workload: when it comes and how long it will turn out to be.

    `output_tokens` is the truth, which no policy may see; `predicted_tokens` is what the length
    file's predictor said, where it has one. `slo` overrides the objective of the run.
    """

    request_id: str
    at_s: float
    prompt_tokens: int
    output_tokens: int
    predicted_tokens: int | None = None
    slo: Slo | None = None
    background: bool = False


@dataclass(slots=True)
class RequestRecord:
    """The life of one request. An instant stays None until it happens.

    `first_token_s` is when its prompt's pass ended; `decode_start_s` when the first step that
    decodes it began (never, for an answer of one token); `last_token_s` when its latest token was
    out. A request that a failed instance took with it and that nobody ran again is `lost`.
    """

    arrival: Arrival
    slo: Slo
    instance_id: str | None = None
    admitted_s: float | None = None
    first_token_s: float | None = None
    decode_start_s: float | None = None
    last_token_s: float | None = None
    tokens_out: int = 0
    reject_reason: str | None = None
    rejected_s: float | None = None
    retry_after_s: float | None = None
    num_preempted: int = 0
    lost: bool = False

    @property
    def rejected(self) -> bool:
        """It was refused: at the door, or shed later."""
        return self.reject_reason is not None

    @property
    def completed(self) -> bool:
        """Every token of the answer is out."""
        return (
            not self.lost
            and self.reject_reason is None
            and self.last_token_s is not None
            and self.tokens_out >= self.arrival.output_tokens
        )

    @property
    def ttft_s(self) -> float | None:
        """Arrival until its decode starts, the wait for the phase switch included.

        EcoServe's strict reading: a first token that is out early does not end it. An answer of
        one token ends with that token. None when not completed.
        """
        if not self.completed:
            return None
        end_s = self.first_token_s if self.tokens_out <= 1 else self.decode_start_s
        return None if end_s is None else end_s - self.arrival.at_s

    @property
    def tpot_s(self) -> float | None:
        """Mean time of the tokens after the first, from the start of its decode.

        0.0 for an answer of one token; None when not completed.
        """
        if not self.completed:
            return None
        if self.tokens_out <= 1:
            return 0.0
        if self.decode_start_s is None or self.last_token_s is None:
            return None
        return (self.last_token_s - self.decode_start_s) / (self.tokens_out - 1)

    @property
    def meets_ttft(self) -> bool:
        """Completed, and its TTFT is within the objective."""
        ttft_s = self.ttft_s
        return ttft_s is not None and ttft_s <= self.slo.ttft_s

    @property
    def meets_tpot(self) -> bool:
        """Completed, and its TPOT is within the objective."""
        tpot_s = self.tpot_s
        return tpot_s is not None and tpot_s <= self.slo.tpot_s

    @property
    def meets_slo(self) -> bool:
        """Completed within both objectives; a rejected or lost request never is."""
        return self.meets_ttft and self.meets_tpot


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """A stretch of time that an instance spent in one phase."""

    start_s: float
    end_s: float
    phase: Phase


@dataclass(frozen=True, slots=True)
class KvSample:
    """KV blocks of an instance at one instant; the terms are `KvOccupancy`'s."""

    at_s: float
    used_blocks: int
    reserved_blocks: int


@dataclass(slots=True)
class InstanceRecord:
    """What one instance did between joining and leaving (None: it stayed to the end).

    `busy_s` is the time in steps, and the sum of `prefill_s`, `decode_s` and `fused_s`. `spans` and
    `kv` are in order of time and filled only when a timeline was asked for.
    """

    instance_id: str
    macro_id: str = "m0"
    joined_s: float = 0.0
    left_s: float | None = None
    busy_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    fused_s: float = 0.0
    num_steps: int = 0
    num_preempted: int = 0
    background_tokens: int = 0
    total_blocks: int = 0
    spans: list[PhaseSpan] = field(default_factory=list)
    kv: list[KvSample] = field(default_factory=list)


@dataclass(slots=True)
class RunRecord:
    """One run: its requests in order of arrival, its instances in order of joining.

    `duration_s` is the instant of the last event; `reasons` counts the policy's decisions by the
    reason it gave.
    """

    requests: list[RequestRecord] = field(default_factory=list)
    instances: list[InstanceRecord] = field(default_factory=list)
    duration_s: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    seed: int = 0
