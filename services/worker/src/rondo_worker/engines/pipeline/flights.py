"""The steps in the pipe: what each was about, and what it brings when it comes out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rondo.errors import EngineError
from rondo.policy.plan import StepPlan
from rondo_worker.engines.base import NO_LOGPROBS, StepLogprobs, UnsupportedRequest
from rondo_worker.engines.pipeline.messages import StepEnd, StepFailed
from rondo_worker.engines.sequences import LiveSequence


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step that came out of the pipe: the next token of each sequence that it completed, or the
    `error` that it failed with, as `Engine.step` would raise it. `ticket` is what submit gave."""

    ticket: int
    tokens: dict[str, int] = field(default_factory=dict)
    logprobs: StepLogprobs = NO_LOGPROBS
    error: EngineError | None = None


@dataclass(slots=True, eq=False)
class Flight:
    """A step in the pipe: its requests, and from which token on it computes each.

    `spoilt`: a step before it failed for one of them.
    """

    number: int
    ids: tuple[str, ...]
    rows: list[LiveSequence]
    starts: list[int]
    spoilt: bool = False


class Flights:
    """All steps in the pipe, oldest first. They come out in the order in which they went in."""

    def __init__(self) -> None:
        self._flights: deque[Flight] = deque()
        self._next = 0

    def __len__(self) -> int:
        return len(self._flights)

    def begin(self, plan: StepPlan, rows: list[LiveSequence]) -> int:
        """A step goes in: its number. From here on what it computes counts as cached."""
        items = plan.items
        for item, row in zip(items, rows, strict=True):
            row.cached = item.start + item.num_tokens
        ids = tuple(item.request_id for item in items)
        self._flights.append(Flight(self._next, ids, rows, [item.start for item in items]))
        self._next += 1
        return self._next - 1

    def land(self, end: StepEnd, failure_of: Callable[[int], StepFailed]) -> StepDone:
        """The oldest step comes out. `failure_of` tells why a step failed, by its number."""
        flight = self._flights.popleft()
        if flight.number != end.number:
            raise EngineError(f"step {end.number} came out of the pipe before {flight.number}")
        if end.ok and not flight.spoilt:
            for request_id, row in zip(flight.ids, flight.rows, strict=True):
                if (token := end.tokens.get(request_id)) is not None:
                    row.append(token)
            return StepDone(end.number, end.tokens, end.logprobs or NO_LOGPROBS)
        self._undo(flight)
        if end.ok:
            failure = StepFailed(end.number, "an earlier step of one of its requests failed")
        else:
            failure = failure_of(end.number)
        return StepDone(end.number, error=_error(failure, flight))

    def clear(self) -> None:
        """The pipe is gone."""
        self._flights.clear()

    def _undo(self, flight: Flight) -> None:
        """Nothing that the step was to compute counts as cached, nor what builds on it."""
        for row, start in zip(flight.rows, flight.starts, strict=True):
            row.cached = min(row.cached, start)
        lost = {id(row) for row in flight.rows}
        for later in self._flights:
            later.spoilt = later.spoilt or any(id(row) in lost for row in later.rows)


def _error(failure: StepFailed, flight: Flight) -> EngineError:
    ids = failure.request_ids or flight.ids
    if failure.param:
        return UnsupportedRequest(failure.param, failure.problem, ids)
    return EngineError(failure.problem, ids)
