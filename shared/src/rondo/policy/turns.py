"""An instance's side of the rotation token: what was granted, what is left, when it is over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


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

    def begin(self, at_s: float) -> TurnStart | None:
        """Marks the first prefill step; None when it had begun before."""
        if self.began_s is not None:
            return None
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
