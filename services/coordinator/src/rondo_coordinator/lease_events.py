"""What the rules of a lease are told, and what they decide; instants on the contender's clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Claim:
    """What a record says of ownership. No owner: it was given back. `beat`: one a write."""

    owner_id: str
    epoch: int
    beat: int


@dataclass(frozen=True, slots=True)
class Saw:
    """The watch showed a claim; None: the key is gone."""

    at_s: float
    claim: Claim | None
    revision: int


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a Read; `revision` is 0 where there is nothing."""

    at_s: float
    claim: Claim | None
    revision: int


@dataclass(frozen=True, slots=True)
class WriteOk:
    """The store has taken the write."""

    at_s: float
    revision: int


@dataclass(frozen=True, slots=True)
class WriteConflict:
    """The store has, and had, another revision."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The read or write was not answered. A write may have been made, or be made later on."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Touch:
    """What the record says besides has changed."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Clock:
    """It is as late as this."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Give back what is owned. The caller has stopped acting."""

    at_s: float


Event: TypeAlias = Saw | Found | WriteOk | WriteConflict | Failed | Touch | Clock | Stop


@dataclass(frozen=True, slots=True)
class Write:
    """Write this claim if the store is at `revision` (0: if there is nothing), and report."""

    claim: Claim
    revision: int


@dataclass(frozen=True, slots=True)
class Read:
    """Ask the store what it has, and report."""


@dataclass(frozen=True, slots=True)
class Acquired:
    """Begin to act under this epoch."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Stop acting at once."""

    why: str


@dataclass(frozen=True, slots=True)
class Ended:
    """After a Stop: nothing is left to do."""


Effect: TypeAlias = Write | Read | Acquired | Lost | Ended


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, in order, and when to send a Clock if nothing else happens before."""

    effects: tuple[Effect, ...]
    wake_at_s: float | None
