"""Worker to coordinator: reports. `seq` counts all reports of one incarnation."""

from __future__ import annotations

from typing import TypeAlias

from rondo.types import Progress
from rondo.wire.base import Wire


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


Report: TypeAlias = StepReport | TurnBegan | TurnEnded
