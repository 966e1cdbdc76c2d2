"""Looking in: events for observers, and what `rondo status` asks."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from rondo.types import KvOccupancy, Phase
from rondo.wire.base import Wire

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
    """One instance in a StatusReply; ages are since the coordinator heard last.

    Memory: of weights and KV pool, and the most that the engine has held so far; 0 if unknown.
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


class StatusReply(Wire, frozen=True, kw_only=True):
    """State of one macro-instance, from its owner."""

    macro_id: str
    model: str
    owner_id: str
    epoch: int
    num_pending: int
    instances: tuple[InstanceStatus, ...]
