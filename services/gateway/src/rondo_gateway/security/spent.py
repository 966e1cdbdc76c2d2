"""What the request that runs now has cost, told by whoever generates for it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Spent:
    """The cost of one request; tasks that it starts share it."""

    num_tokens: int = 0


_spent: ContextVar[Spent | None] = ContextVar("rondo_spent", default=None)


def begin_spending() -> Spent:
    """For the gate: from now on this is what `spend` adds to, in this task and those it starts."""
    spent = Spent()
    _spent.set(spent)
    return spent


def spend(num_tokens: int) -> None:
    """An answer took so many tokens, those of its prompt included."""
    spent = _spent.get()
    if spent is not None:
        spent.num_tokens += num_tokens
