"""Coordinator to worker: commands.

A worker obeys one macro-instance at a time, the first that commands it, until it is handed over; of
that one it ignores commands of an older epoch.
"""

from __future__ import annotations

from typing import TypeAlias

from rondo.types import Batching
from rondo.wire.base import Wire


class Order(Wire, frozen=True, kw_only=True):
    """Base of all commands: which macro-instance's owner gives it, and under which epoch."""

    epoch: int
    macro_id: str = ""


class TurnToken(Order, frozen=True, kw_only=True):
    """Grants a prefill turn: the requests admitted to it and the time it may take."""

    turn: int
    request_ids: tuple[str, ...]
    budget_s: float
    batching: Batching = Batching()


class TurnExtend(Order, frozen=True, kw_only=True):
    """Adds requests to the turn that the instance holds; `budget_s` is the new total."""

    turn: int
    request_ids: tuple[str, ...]
    budget_s: float
    batching: Batching = Batching()


class TurnRevoke(Order, frozen=True, kw_only=True):
    """Takes the token back: no further requests will join this turn."""

    turn: int


class CancelRun(Order, frozen=True, kw_only=True):
    """The coordinator's word that an admitted request was withdrawn by its gateway."""

    request_id: str


class SendFullReport(Order, frozen=True, kw_only=True):
    """Asks for a StepReport with `members`: after a gap, or from a new owner."""


class ReportOften(Order, frozen=True, kw_only=True):
    """Requests wait for what this instance does next: for so long, nothing is held back for long.

    Instances otherwise report the mere progress of what decodes at leisure.
    """

    for_s: float


class MayBeat(Order, frozen=True, kw_only=True):
    """While it has no news, the instance may for so long send beats in place of full reports."""

    for_s: float


class Rejoin(Order, frozen=True, kw_only=True):
    """The instance was dropped for silence: abort everything and register anew."""


class HandOver(Order, frozen=True, kw_only=True):
    """The instance belongs to another macro-instance from now on, with all it runs."""

    target_id: str


Command: TypeAlias = (
    TurnToken
    | TurnExtend
    | TurnRevoke
    | CancelRun
    | SendFullReport
    | ReportOften
    | MayBeat
    | Rejoin
    | HandOver
)
