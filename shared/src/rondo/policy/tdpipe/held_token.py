"""The rotation token in the hands of a pipeline: what was granted with it, and what is told of it.

As on every instance a grant lets a prompt in, and a turn ends when all that was granted is
prefilled. But a pipeline's scheduler chooses its phases itself, for throughput: no budget ends a
turn, nothing is left over, and a turn's batching does not count.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from rondo.policy.instance import PROMPT_WAIT_S
from rondo.policy.turns import HeldTurn, TurnEnd, TurnStart
from rondo.types import Finished, FinishReason


class HeldToken:
    """The turn that an instance holds, if any, and the events to report."""

    def __init__(self) -> None:
        self.number = 0
        """The newest turn."""
        self._turn: HeldTurn | None = None
        self._events: list[TurnStart | TurnEnd] = []

    @property
    def granted(self) -> Container[str]:
        """Requests that are still to be prefilled in the turn."""
        return self._turn.granted if self._turn else ()

    def grant(self, number: int, request_ids: Sequence[str], budget_s: float, at_s: float) -> bool:
        """A token came, or was extended; False: it is older than the newest one."""
        if number < self.number:
            return False
        if self._turn is None or number > self._turn.number:
            carried = tuple(self._turn.granted) if self._turn else ()
            self._turn, self.number = HeldTurn(number, budget_s, at_s), number
            self._turn.grant(carried, budget_s, at_s)
        self._turn.grant(request_ids, budget_s, at_s)
        return True

    def revoke(self, number: int) -> None:
        """The token is taken back, once all is prefilled that was granted with it."""
        if self._turn and self._turn.number == number:
            self._turn.revoked = True

    def begin(self, request_ids: Iterable[str], at_s: float) -> None:
        """Prompts go into the pipe."""
        turn = self._turn
        if turn is None or not any(request_id in turn.granted for request_id in request_ids):
            return
        if start := turn.begin(at_s):
            self._events.append(start)

    def done(self, request_id: str, prompt_tokens: int) -> None:
        """A prompt is prefilled."""
        if self._turn:
            self._turn.done(request_id, prompt_tokens)

    def forget(self, request_id: str) -> None:
        """A request is gone."""
        if self._turn:
            self._turn.granted.pop(request_id, None)

    def expire(self, known: Container[str], at_s: float) -> tuple[Finished, ...]:
        """Gives up what was granted long ago and is not known yet."""
        if self._turn is None:
            return ()
        gone = [
            request_id
            for request_id, since_s in self._turn.granted.items()
            if request_id not in known and at_s - since_s > PROMPT_WAIT_S
        ]
        for request_id in gone:
            del self._turn.granted[request_id]
        return tuple(Finished(request_id, FinishReason.CANCELLED, 0) for request_id in gone)

    def close(self, at_s: float) -> None:
        """Ends the turn's stretch of prefills when nothing is left of it."""
        turn = self._turn
        if turn is None or turn.granted:
            return
        if turn.began_s is not None:
            self._events.append(turn.end(at_s))
        if turn.revoked:
            self._turn = None

    def take_events(self) -> list[TurnStart | TurnEnd]:
        """Turn starts and ends since the last call, in order."""
        events, self._events = self._events, []
        return events
