"""What browsers are told: increments with sequence numbers, and now and then everything.

A `Step` brings what changed since the one before. One with `fresh` set stands alone: it is the
whole state, and what a browser knew before is to be forgotten. Instants are milliseconds on the
collector's own clock, which starts at 0; `docs/console.md` describes every field.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeAlias

import msgspec

#: Instants on the collector's clock.
Millis: TypeAlias = int


class LanePhase(IntEnum):
    """What a lane shows; as `rondo.types.Phase`, in a digit."""

    IDLE = 0
    DECODE = 1
    PREFILL = 2
    FUSED = 3


class MarkKind(IntEnum):
    """What happened at an instant of a lane."""

    ADMITTED = 0
    ANSWERED = 1
    FAILED = 2


class Lane(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One instance. `number` is its own for the life of the collector."""

    number: int
    id: str
    macro: str
    model: str
    engine: str
    total_blocks: int
    max_running: int
    draining: bool = False


class Macro(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One macro-instance; `members` are instance ids in the order of its ring."""

    id: str
    model: str
    owner: str
    epoch: int
    members: tuple[str, ...]


class PhaseChange(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """From `at` on the lane is in `phase`; `turn` is the number of its latest turn."""

    lane: int
    at: Millis
    phase: LanePhase
    turn: int


class Level(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How full a lane is now."""

    lane: int
    num_running: int
    num_waiting: int
    used_blocks: int
    reserved_blocks: int


class Mark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A request came to a lane, or ended there."""

    lane: int
    at: Millis
    kind: MarkKind


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Something about the cluster itself: who came and went, split, merge, scaling, new owner."""

    at: Millis
    kind: str
    text: str


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """Figures over the window that ends at `at`; None where nothing ended in it.

    `rate` and `goodput` are requests/s; `attainment` is the share of what ended that met both of
    its own limits.
    """

    at: Millis
    rate: float
    goodput: float
    attainment: float | None
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    tpot_p50_ms: float | None
    tpot_p99_ms: float | None


class Track(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One request, as far as the cluster spoke of it while somebody looked.

    `story` is (instant, what happened, why); `ledger` is the gateway's (docs/api.md), once it has
    ended.
    """

    id: str
    at: Millis
    state: str = "pending"
    model: str = ""
    macro: str = ""
    instance: str = ""
    turn: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    predicted_ttft_ms: float | None = None
    predicted_tpot_ms: float | None = None
    limit_ttft_ms: float | None = None
    limit_tpot_ms: float | None = None
    outcome: str = ""
    story: list[tuple[Millis, str, str]] = []
    ledger: dict[str, float] = {}


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What changed; see the module.

    `macros` and `pending` (requests that wait for admission, by macro-instance) are whole where
    they are there; `requests` has the newest of those that changed.
    """

    at: Millis
    fresh: bool = False
    lanes: tuple[Lane, ...] = ()
    left: tuple[int, ...] = ()
    macros: tuple[Macro, ...] | None = None
    pending: dict[str, int] | None = None
    phases: tuple[PhaseChange, ...] = ()
    levels: tuple[Level, ...] = ()
    marks: tuple[Mark, ...] = ()
    notes: tuple[Note, ...] = ()
    requests: tuple[Track, ...] = ()
    points: tuple[Point, ...] = ()
