"""Coordinator to worker: commands. A worker ignores those of an older epoch."""

from __future__ import annotations

from typing import TypeAlias

from rondo.types import Batching
from rondo.wire.base import Wire


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


Command: TypeAlias = TurnToken | TurnExtend | TurnRevoke | CancelRun | SendFullReport | Rejoin
