"""An instance's side of the rotation token: what was granted, what is left, when it is over."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass, field

from rondo.types import Finished, FinishReason

#: A granted request whose prompt does not come within this time is given up.
PROMPT_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class TurnStart:
    """The first prefill step of a turn is about to run, `waited_s` after its token came."""

    turn: int
    waited_s: float


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """Decode resumes. `leftover` were granted but not prefilled within the budget."""

    turn: int
    duration_s: float
    num_prefilled: int
    prefill_tokens: int
    leftover: tuple[str, ...]


@dataclass(slots=True)
class HeldTurn:
    """A token in the hands of an instance.

    `granted` maps requests still to be prefilled to the time their grant came. It stays open for
    extensions until it is revoked, and may begin and end several times meanwhile.
    """

    number: int
    budget_s: float
    received_s: float
    granted: dict[str, float] = field(default_factory=dict)
    revoked: bool = False
    began_s: float | None = None
    num_prefilled: int = 0
    prefill_tokens: int = 0

    def grant(self, request_ids: Iterable[str], budget_s: float, at_s: float) -> None:
        """Adds requests and sets the new total budget."""
        self.budget_s = budget_s
        for request_id in request_ids:
            self.granted.setdefault(request_id, at_s)

    def begin(self, at_s: float) -> TurnStart:
        """Marks the first prefill step."""
        self.began_s = at_s
        return TurnStart(self.number, at_s - self.received_s)

    def done(self, request_id: str, num_tokens: int) -> None:
        """A granted request has been prefilled."""
        if self.granted.pop(request_id, None) is not None:
            self.num_prefilled += 1
            self.prefill_tokens += num_tokens

    def overdue(self, at_s: float) -> bool:
        """Whether the budget is spent."""
        return self.began_s is not None and at_s - self.began_s > self.budget_s

    def end(self, at_s: float) -> TurnEnd:
        """Closes this stretch of prefills; what is still granted becomes leftover."""
        began_s = at_s if self.began_s is None else self.began_s
        report = TurnEnd(
            self.number,
            at_s - began_s,
            self.num_prefilled,
            self.prefill_tokens,
            tuple(self.granted),
        )
        self.granted.clear()
        self.began_s = None
        self.num_prefilled = self.prefill_tokens = 0
        return report


class HeldToken:
    """The rotation token in the hands of an instance: its turn, if any, and what is told of it.

    `number` is that of the newest turn.
    """

    def __init__(self) -> None:
        self.number = 0
        self.turn: HeldTurn | None = None
        self._events: list[TurnStart | TurnEnd] = []

    @property
    def granted(self) -> Collection[str]:
        """Requests that are still to be prefilled in the turn."""
        return self.turn.granted if self.turn else ()

    def grant(self, number: int, request_ids: Iterable[str], budget_s: float, at_s: float) -> bool:
        """A token came, or was extended; False: it is older than the newest one."""
        if number < self.number:
            return False
        if self.turn is None or number > self.turn.number:
            carried = tuple(self.granted)
            self.turn, self.number = HeldTurn(number, budget_s, at_s), number
            self.turn.grant(carried, budget_s, at_s)
        self.turn.grant(request_ids, budget_s, at_s)
        return True

    def revoke(self, number: int) -> None:
        """The token is taken back, once all is prefilled that was granted with it."""
        if self.turn and self.turn.number == number:
            self.turn.revoked = True

    def forget(self, request_id: str) -> None:
        """A request is gone."""
        if self.turn:
            self.turn.granted.pop(request_id, None)

    def expire(self, known: Container[str], at_s: float) -> tuple[Finished, ...]:
        """Gives up what was granted long ago and is not known yet."""
        if self.turn is None:
            return ()
        granted, before_s = self.turn.granted, at_s - PROMPT_WAIT_S
        gone = [r for r, since_s in granted.items() if r not in known and since_s < before_s]
        for request_id in gone:
            del granted[request_id]
        return tuple(Finished(request_id, FinishReason.CANCELLED, 0) for request_id in gone)

    def begin(self, at_s: float) -> None:
        """A step with prompts is about to run."""
        if self.turn and self.turn.began_s is None:
            self._events.append(self.turn.begin(at_s))

    def close(self, at_s: float) -> None:
        """Ends the turn's stretch of prefills; what is still granted becomes leftover."""
        if self.turn is None:
            return
        if self.turn.began_s is not None:
            self._events.append(self.turn.end(at_s))
        if self.turn.revoked:
            self.turn = None

    def take_events(self) -> list[TurnStart | TurnEnd]:
        """Turn starts and ends since the last call, in order."""
        events, self._events = self._events, []
        return events
