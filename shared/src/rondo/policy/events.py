"""What goes into a macro-instance scheduler and what comes out of it.

`at_s` is the caller's monotonic clock in seconds; a simulator passes its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

import msgspec

from rondo.perf.correction import CorrectedModel
from rondo.policy.load_count import LoadCount
from rondo.types import Batching, LatencyModel, Progress, RequestInfo

#: A fifth of the pool stays free of background requests.
BACKGROUND_POOLS = 0.8


class InstanceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a scheduler needs to know of an instance; `latency` predicts its step times.

    `background_pools`: KV pools full of background requests, by their predicted ends, that it takes
    at most. Below 1 a part of the pool stays free of them; above, they queue at the instance, which
    has more to choose from.
    """

    instance_id: str
    latency: LatencyModel
    block_size: int
    num_blocks: int
    max_model_len: int
    max_running: int
    max_prefill_tokens: int
    background_pools: float = BACKGROUND_POOLS


class Timed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all events."""

    at_s: float


class RequestArrived(Timed, frozen=True, kw_only=True):
    """A gateway asks for admission; the same request may ask again."""

    request: RequestInfo


class RequestCancelled(Timed, frozen=True, kw_only=True):
    """Nobody wants the request any more."""

    request_id: str


class InstanceJoined(Timed, frozen=True, kw_only=True):
    """An instance is there (or is there again, anew); `progress` is its full state."""

    instance: InstanceInfo
    progress: Progress


class InstanceLeft(Timed, frozen=True, kw_only=True):
    """An instance left, or was dropped for silence."""

    instance_id: str


class InstanceReported(Timed, frozen=True, kw_only=True):
    """An instance made progress."""

    instance_id: str
    progress: Progress


class TurnClosed(Timed, frozen=True, kw_only=True):
    """An instance resumed decode; `leftover` were granted but not prefilled."""

    instance_id: str
    turn: int
    duration_s: float
    leftover: tuple[str, ...] = ()


class Tick(Timed, frozen=True, kw_only=True):
    """Time passed: the `wake_at_s` of the last decision has come."""


Event: TypeAlias = (
    RequestArrived
    | RequestCancelled
    | InstanceJoined
    | InstanceLeft
    | InstanceReported
    | TurnClosed
    | Tick
)


class Effect(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all effects."""


class Admit(Effect, frozen=True, kw_only=True):
    """Let the request run on this instance, in this turn."""

    request_id: str
    instance_id: str
    turn: int
    predicted_ttft_s: float
    predicted_tpot_s: float
    reasons: tuple[str, ...]


class Reject(Effect, frozen=True, kw_only=True):
    """Refuse the request: `no_instances`, `too_long`, `queue_full` or `overloaded`."""

    request_id: str
    reason: str
    detail: str
    retry_after_s: float | None


class GrantTurn(Effect, frozen=True, kw_only=True):
    """Send the instance a rotation token; `batching` says how its steps are filled meanwhile."""

    instance_id: str
    turn: int
    request_ids: tuple[str, ...]
    budget_s: float
    batching: Batching


class ExtendTurn(Effect, frozen=True, kw_only=True):
    """Add requests to the turn the instance holds; `budget_s` is the new total."""

    instance_id: str
    turn: int
    request_ids: tuple[str, ...]
    budget_s: float
    batching: Batching


class RevokeTurn(Effect, frozen=True, kw_only=True):
    """Take the token back."""

    instance_id: str
    turn: int


class CancelOn(Effect, frozen=True, kw_only=True):
    """Tell the instance that an admitted request was withdrawn."""

    instance_id: str
    request_id: str


class MoveKv(Effect, frozen=True, kw_only=True):
    """Send a prefilled request's KV to another instance, which decodes it."""

    request_id: str
    source_id: str
    target_id: str


class Observed(Effect, frozen=True, kw_only=True):
    """A prediction met its outcome. `ttft` values come when decode starts, `tpot` at the end."""

    request_id: str
    instance_id: str
    predicted_ttft_s: float | None = None
    actual_ttft_s: float | None = None
    predicted_tpot_s: float | None = None
    actual_tpot_s: float | None = None


AnyEffect: TypeAlias = (
    Admit | Reject | GrantTurn | ExtendTurn | RevokeTurn | CancelOn | MoveKv | Observed
)


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Effects to perform, in order; when to send a Tick; why things are as they are."""

    effects: tuple[AnyEffect, ...] = ()
    wake_at_s: float | None = None
    reasons: tuple[str, ...] = ()


class MacroScheduler(Protocol):
    """Decides for one macro-instance. Pure: the same events give the same decisions."""

    def handle(self, event: Event) -> Decision:
        """Takes one event in; events come in order of `at_s`."""
        ...

    @property
    def num_pending(self) -> int:
        """Requests that wait for admission."""
        ...

    @property
    def latencies(self) -> Mapping[str, CorrectedModel]:
        """Predicts the steps of each instance, as corrected so far."""
        ...

    @property
    def load(self) -> LoadCount:
        """What it saw of its load."""
        ...

    def expects_news(self, instance_id: str) -> bool:
        """Whether an instance that has nothing to do should have said more than that: requests are
        believed to be on it, or wait."""
        ...

    def instance_rate(self) -> float | None:
        """Requests/s that an instance can serve of what came lately; None: not known yet."""
        ...

    def mean_saved_tpot_s(self, at_s: float) -> float | None:
        """Mean saved TPOT of all that decodes; None when nothing does."""
        ...

    def saved_tpot_s(self, at_s: float) -> Mapping[str, tuple[float, float]]:
        """Mean and least saved TPOT of what decodes, of each instance on which something does."""
        ...

    def check_invariants(self) -> None:
        """Raises InvariantError when the state contradicts itself."""
        ...
