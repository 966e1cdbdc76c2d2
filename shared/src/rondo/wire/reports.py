"""Worker to coordinator: reports. `seq` counts all reports of one incarnation."""

from __future__ import annotations

from typing import TypeAlias

from rondo.types import Progress
from rondo.wire.base import Wire


class FromInstance(Wire, frozen=True, kw_only=True):
    """Base of all reports: who speaks, and which macro-instance's epoch it obeys ("": nobody's
    yet)."""

    instance_id: str
    incarnation: str
    epoch: int
    seq: int
    macro_id: str = ""


class StepReport(FromInstance, frozen=True, kw_only=True):
    """Progress of an instance, coalesced over steps, sent at once when something changed phase."""

    progress: Progress


class TurnBegan(FromInstance, frozen=True, kw_only=True):
    """The first prefill step of a turn starts; `waited_s` is since its token arrived."""

    turn: int
    waited_s: float


class TurnEnded(FromInstance, frozen=True, kw_only=True):
    """Decode has resumed. `leftover` were granted but not prefilled (the budget ran out)."""

    turn: int
    duration_s: float
    num_prefilled: int
    prefill_tokens: int
    leftover: tuple[str, ...] = ()


class Beat(FromInstance, frozen=True, kw_only=True):
    """The instance lives, has nothing to do, and nothing changed since its last report.

    It has no number of its own: `seq` is that of the report to come.
    """


Report: TypeAlias = StepReport | TurnBegan | TurnEnded | Beat
