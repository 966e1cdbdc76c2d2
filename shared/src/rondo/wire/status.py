"""Looking in: events for observers, and what `rondo status` asks."""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

import msgspec

from rondo.types import KvOccupancy, KvSpace, Phase
from rondo.wire.base import Wire

Fields: TypeAlias = dict[str, str | int | float | bool | None | list[str]]


class Event(Wire, frozen=True, kw_only=True):
    """A decision or life-cycle event on rondo.v1.events.<kind>."""

    kind: str
    source_id: str
    seq: int
    fields: Fields


class Watching(Wire, frozen=True, kw_only=True):
    """Somebody looks at the cluster through this gateway: said every few seconds while it is so.

    Events that nobody else needs are published only then; see `rondo.service.watched`. With
    `demo_rate` it makes so many requests/s for a demonstration from now on, and the others none.
    """

    gateway_id: str
    demo_rate: float | None = None


class FaultKind(str, Enum):
    """KILL: the process dies at once. PAUSE: it hangs for a while. DRAIN: it leaves in order."""

    KILL = "kill"
    PAUSE = "pause"
    DRAIN = "drain"


class InjectFault(Wire, frozen=True, kw_only=True):
    """To a worker of a demonstration cluster; others do not listen. `duration_s` is of a pause."""

    fault: FaultKind
    duration_s: float = 0.0


class FaultTaken(Wire, frozen=True, kw_only=True):
    """The worker does so as soon as this is sent."""

    instance_id: str
    fault: FaultKind


class StatusRequest(Wire, frozen=True, kw_only=True):
    """Asks the owners of all macro-instances for their state."""


class InstanceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One instance in a StatusReply; ages are since the coordinator heard last.

    Memory: of weights and KV pool, and the most that the engine has held so far; 0 if unknown.
    `space` as in `Progress`.
    """

    instance_id: str
    engine: str
    phase: Phase
    turn: int
    num_running: int
    num_waiting: int
    kv: KvOccupancy | None
    report_age_s: float
    weight_bytes: int = 0
    kv_bytes: int = 0
    peak_bytes: int = 0
    space: KvSpace | None = None


class StatusReply(Wire, frozen=True, kw_only=True):
    """State of one macro-instance, from its owner."""

    macro_id: str
    model: str
    owner_id: str
    epoch: int
    num_pending: int
    instances: tuple[InstanceStatus, ...]
