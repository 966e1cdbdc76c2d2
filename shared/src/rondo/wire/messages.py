"""Every message of the protocol. See docs/wire.md for who sends what to whom.

Rules: durations travel, timestamps do not; a new field always has a default; token ids travel as
binary. Messages are frozen; msgspec checks types on decoding.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from rondo.perf.profile import LatencyProfile
from rondo.types import Batching, FinishReason, KvOccupancy, Phase, Progress, Sampling, Slo


class Wire(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all messages; the class name is the tag."""


# Gateway -> coordinator, and the answers.


class Submit(Wire, frozen=True, kw_only=True):
    """Asks for admission; asked again with the same `request_id`, the answer is the same.

    `age_s` is the time since the request's arrival at the gateway."""

    request_id: str
    gateway_id: str
    prompt_tokens: int
    max_tokens: int
    predicted_tokens: int
    slo: Slo
    age_s: float


class Admitted(Wire, frozen=True, kw_only=True):
    """The request may go to this instance, in this turn; with the latencies predicted for it."""

    request_id: str
    instance_id: str
    epoch: int
    turn: int
    predicted_ttft_s: float
    predicted_tpot_s: float
    reasons: tuple[str, ...] = ()


class Rejected(Wire, frozen=True, kw_only=True):
    """The request is refused; `retry_after_s` is None when no later try can succeed."""

    request_id: str
    reason: str
    detail: str
    retry_after_s: float | None = None


class Cancel(Wire, frozen=True, kw_only=True):
    """Nobody wants the request any more (gateway -> coordinator or worker)."""

    request_id: str


# Gateway -> worker, and the tokens back.


class Run(Wire, frozen=True, kw_only=True):
    """The prompt of an admitted request: token ids as little-endian int32. The last `num_resumed`
    are of its answer, which began elsewhere."""

    request_id: str
    gateway_id: str
    prompt: bytes
    max_tokens: int
    predicted_tokens: int
    sampling: Sampling
    slo: Slo
    age_s: float
    ignore_eos: bool = False
    num_resumed: int = 0


class Resync(Wire, frozen=True, kw_only=True):
    """Asks a worker to send a request's tokens again from this index on."""

    request_id: str
    gateway_id: str
    from_index: int


class TokenDelta(msgspec.Struct, frozen=True, array_like=True):
    """New tokens of one request; `index` is the position of the first in its answer."""

    request_id: str
    index: int
    tokens: tuple[int, ...]
    finish: FinishReason | None = None
    error: str | None = None


class TokenFrame(Wire, frozen=True, kw_only=True):
    """All new tokens of one engine step for one gateway. `seq` counts frames of this pair."""

    instance_id: str
    incarnation: str
    seq: int
    deltas: tuple[TokenDelta, ...]


# Coordinator -> worker: commands. A worker ignores those of an older epoch.


class TurnToken(Wire, frozen=True, kw_only=True):
    """Grants a prefill turn: the requests admitted to it and the time it may take."""

    epoch: int
    turn: int
    request_ids: tuple[str, ...]
    budget_s: float
    batching: Batching = Batching()


class TurnExtend(Wire, frozen=True, kw_only=True):
    """Adds requests to the turn that the instance holds; `budget_s` is the new total."""

    epoch: int
    turn: int
    request_ids: tuple[str, ...]
    budget_s: float
    batching: Batching = Batching()


class TurnRevoke(Wire, frozen=True, kw_only=True):
    """Takes the token back: no further requests will join this turn."""

    epoch: int
    turn: int


class CancelRun(Wire, frozen=True, kw_only=True):
    """The coordinator's word that an admitted request was withdrawn by its gateway."""

    epoch: int
    request_id: str


class SendFullReport(Wire, frozen=True, kw_only=True):
    """Asks for a StepReport with `members`: after a gap, or from a new owner."""

    epoch: int


class Rejoin(Wire, frozen=True, kw_only=True):
    """The instance was dropped for silence: abort everything and register anew."""

    epoch: int


# Worker -> coordinator: reports. `seq` counts all reports of one incarnation.


class StepReport(Wire, frozen=True, kw_only=True):
    """Progress of an instance, coalesced over steps, sent at once when something changed phase."""

    instance_id: str
    incarnation: str
    epoch: int
    seq: int
    progress: Progress


class TurnBegan(Wire, frozen=True, kw_only=True):
    """The first prefill step of a turn starts; `waited_s` is since its token arrived."""

    instance_id: str
    incarnation: str
    epoch: int
    seq: int
    turn: int
    waited_s: float


class TurnEnded(Wire, frozen=True, kw_only=True):
    """Decode has resumed. `leftover` were granted but not prefilled (the budget ran out)."""

    instance_id: str
    incarnation: str
    epoch: int
    seq: int
    turn: int
    duration_s: float
    num_prefilled: int
    prefill_tokens: int
    leftover: tuple[str, ...] = ()


# Records in key-value buckets.


class InstanceRecord(Wire, frozen=True, kw_only=True):
    """Bucket rondo_instances: who is there. `incarnation` is new at every start or rejoin.

    A draining instance finishes what it runs and takes nothing new.
    """

    instance_id: str
    incarnation: str
    model: str
    engine: str
    max_model_len: int
    block_size: int
    num_blocks: int
    max_running: int
    max_prefill_tokens: int
    profile: LatencyProfile
    draining: bool = False


class MacroRecord(Wire, frozen=True, kw_only=True):
    """Bucket rondo_macros: who owns what. `epoch` only grows; `beat` changes with each renewal."""

    macro_id: str
    model: str
    owner_id: str
    epoch: int
    beat: int
    max_model_len: int
    instance_ids: tuple[str, ...]


# Looking in.


Fields: TypeAlias = dict[str, str | int | float | bool | None | list[str]]


class Event(Wire, frozen=True, kw_only=True):
    """A decision or life-cycle event on rondo.v1.events.<kind>."""

    kind: str
    source_id: str
    seq: int
    fields: Fields


class StatusRequest(Wire, frozen=True, kw_only=True):
    """Asks the owners of all macro-instances for their state."""


class InstanceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One instance in a StatusReply; ages are since the coordinator heard last."""

    instance_id: str
    engine: str
    phase: Phase
    turn: int
    num_running: int
    num_waiting: int
    kv: KvOccupancy | None
    report_age_s: float


class StatusReply(Wire, frozen=True, kw_only=True):
    """State of one macro-instance, from its owner."""

    macro_id: str
    model: str
    owner_id: str
    epoch: int
    num_pending: int
    instances: tuple[InstanceStatus, ...]


Message: TypeAlias = (
    Submit
    | Admitted
    | Rejected
    | Cancel
    | Run
    | Resync
    | TokenFrame
    | TurnToken
    | TurnExtend
    | TurnRevoke
    | CancelRun
    | SendFullReport
    | Rejoin
    | StepReport
    | TurnBegan
    | TurnEnded
    | InstanceRecord
    | MacroRecord
    | Event
    | StatusRequest
    | StatusReply
)

Command: TypeAlias = TurnToken | TurnExtend | TurnRevoke | CancelRun | SendFullReport | Rejoin
Report: TypeAlias = StepReport | TurnBegan | TurnEnded
