"""A request on the bus: gateway to coordinator and worker, and the tokens back."""

from __future__ import annotations

import msgspec

from rondo.logprobs import Logprobs
from rondo.types import FinishReason, Sampling, Slo
from rondo.wire.base import Wire


class Submit(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """Asks for admission; asked again with the same `request_id`, the answer is the same.

    `age_s` is the time since the request's arrival at the gateway. `traceparent` is the W3C
    context of the span that waits for the answer, where the request is traced. `background`: it
    has time, and takes only what other requests leave over."""

    request_id: str
    gateway_id: str
    prompt_tokens: int
    max_tokens: int
    predicted_tokens: int
    slo: Slo
    age_s: float
    traceparent: str = ""
    background: bool = False


class Admitted(Wire, frozen=True, kw_only=True):
    """The request may go to this instance, in this turn; with the latencies predicted for it."""

    request_id: str
    instance_id: str
    epoch: int
    turn: int
    predicted_ttft_s: float
    predicted_tpot_s: float
    reasons: tuple[str, ...] = ()


#: Reason of a `Rejected` that refuses nothing: ask again at once, and look whom to ask.
MOVED = "moved"


class Rejected(Wire, frozen=True, kw_only=True):
    """The request is refused; `retry_after_s` is None when no later try can succeed."""

    request_id: str
    reason: str
    detail: str
    retry_after_s: float | None = None


class Cancel(Wire, frozen=True, kw_only=True):
    """Nobody wants the request any more (gateway -> coordinator or worker)."""

    request_id: str


class Run(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """The prompt of an admitted request: token ids as little-endian int32. The last `num_resumed`
    are of its answer, which began elsewhere. `traceparent`, `background` as in `Submit`."""

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
    traceparent: str = ""
    background: bool = False


class Resync(Wire, frozen=True, kw_only=True):
    """Asks a worker to send a request's tokens again from this index on."""

    request_id: str
    gateway_id: str
    from_index: int


class FirstToken(msgspec.Struct, frozen=True, array_like=True):
    """What the worker did before a request's first token: `waited_s` from the prompt's arrival to
    its first prefill step, `prefill_s` in steps with parts of it; and what was asked for of the
    prompt: its own logprobs, of every token but the first, and its embedding, packed."""

    waited_s: float
    prefill_s: float
    prompt: Logprobs | None = None
    embedding: bytes = b""


class TokenDelta(msgspec.Struct, frozen=True, array_like=True):
    """New tokens of one request; `index` is the position of the first in its answer.

    `logprobs` has a row for each token, if asked for; `first` comes with the token of index 0.
    `refused` names the parameter that this engine lacks, when that is the error.
    """

    request_id: str
    index: int
    tokens: tuple[int, ...]
    finish: FinishReason | None = None
    error: str | None = None
    logprobs: Logprobs | None = None
    first: FirstToken | None = None
    refused: str | None = None


class TokenFrame(Wire, frozen=True, kw_only=True):
    """All new tokens of one engine step for one gateway. `seq` counts frames of this pair."""

    instance_id: str
    incarnation: str
    seq: int
    deltas: tuple[TokenDelta, ...]
