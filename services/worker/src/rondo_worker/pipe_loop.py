"""The step loop of a pipeline: several steps in flight, planned by a `PipeScheduler`.

The scheduler fills the pipe, the oldest step comes back, and so on. A step that fails is run again
alone, as every failed step is (`retry`): for that the pipe is emptied first.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rondo.errors import EngineError
from rondo.policy.instance import InstanceScheduler
from rondo.policy.plan import StepPlan
from rondo.policy.tdpipe import PipeInstance, PipeStep
from rondo.service import logs
from rondo.types import Phase
from rondo_worker.engines.base import Engine, EngineGone
from rondo_worker.loop import AnyLoop, DoneStep, EngineLoop, StepLoop, StepRecord
from rondo_worker.retry import StepResult, run_again

if TYPE_CHECKING:
    from rondo_worker.engines.pipeline import StepDone  # needs torch, as not every worker does

log = logging.getLogger("rondo.worker")

#: Actions wait so long at most while the oldest step is on its way.
POLL_S = 0.02

AnyScheduler = InstanceScheduler | PipeInstance


@runtime_checkable
class PipeEngine(Engine, Protocol):
    """An engine with several steps in flight; see `engines.pipeline`."""

    def submit(self, plan: StepPlan) -> int:
        """Sends a step into the pipe and returns at once."""
        ...

    def take(self, timeout_s: float | None = None) -> StepDone | None:
        """The oldest step in flight when it is through; None: not within `timeout_s`."""
        ...


@dataclass(frozen=True, slots=True)
class Flight:
    """A step in the pipe, and when it went in. `error`: the engine did not take it."""

    step: PipeStep
    began_s: float
    error: EngineError | None = None


class PipeLoop(StepLoop[PipeInstance, PipeEngine]):
    """Fills the pipe and takes in what comes out, until stopped; see StepLoop."""

    def __init__(
        self,
        engine: PipeEngine,
        scheduler: PipeInstance,
        on_record: Callable[[StepRecord], None],
        on_death: Callable[[Exception], None],
    ) -> None:
        super().__init__(engine, scheduler, on_record, on_death)
        self._flights: deque[Flight] = deque()

    def _round(self) -> bool:
        scheduler = self._scheduler
        before = scheduler.phase
        expired = scheduler.expire(time.monotonic())
        self._fill()
        fell_idle = scheduler.phase is Phase.IDLE and before is not Phase.IDLE
        steps = scheduler.take_steps() if fell_idle else ()
        self._announce(expired, fell_idle=fell_idle, steps=steps)
        if not self._flights:
            return False
        if self._flights[-1].error:
            self._recover([])
        elif done := self._engine.take(POLL_S):
            self._land(done)
        return True

    def _fill(self) -> None:
        """Hands the engine every step that the scheduler has."""
        while (step := self._scheduler.next_step(time.monotonic())) is not None:
            began_s = time.monotonic()
            error: EngineError | None = None
            try:
                self._engine.submit(step.plan)
            except EngineGone:
                raise
            except EngineError as refusal:
                error = refusal
            self._flights.append(Flight(step, began_s, error))
            if self._step_began_s is None:
                self._step_began_s = began_s
            if error:
                return

    def _land(self, done: StepDone) -> None:
        """The oldest step is through."""
        if done.error:
            self._recover([done])
            return
        self._take_in(self._flights.popleft(), _result_of(done))

    def _recover(self, landed: list[StepDone | None]) -> None:
        """A step failed: takes in all steps in flight, those that failed when they have been run
        again, with nothing else in the pipe. `landed` is the oldest one, if it is out already."""
        behind = list(self._flights)[len(landed) :]
        landed += [None if flight.error else self._engine.take() for flight in behind]
        for done in landed:
            flight = self._flights.popleft()
            if done and not done.error:
                result = _result_of(done)
            else:
                error = done.error if done else flight.error
                logs.warning(log, "step_again", error=error, requests=len(flight.step.plan.items))
                self._step_began_s = time.monotonic()
                result = run_again(self._engine, flight.step.plan, self._scheduler.has)
            self._take_in(flight, result)

    def _take_in(self, flight: Flight, result: StepResult) -> None:
        """The oldest step is over, for all its requests."""
        scheduler, plan = self._scheduler, flight.step.plan
        now_s = time.monotonic()
        self._step_began_s = now_s if self._flights else None
        error = self._end_failed(result)
        timed = result.num_tries == 1
        outcome = scheduler.land(flight.step, result.tokens, now_s, timed=timed)
        steps = scheduler.take_steps()
        self._conclude(DoneStep(plan, result, outcome, error, steps, flight.began_s, now_s))


def _result_of(done: StepDone) -> StepResult:
    """Of a step that went well at once."""
    return StepResult(done.tokens, logprobs=done.logprobs, num_tries=1)


def make_loop(
    engine: Engine,
    scheduler: AnyScheduler,
    on_record: Callable[[StepRecord], None],
    on_death: Callable[[Exception], None],
) -> AnyLoop:
    """The loop that runs the scheduler's steps; see StepLoop."""
    if isinstance(scheduler, PipeInstance):
        assert isinstance(engine, PipeEngine), "whoever made the scheduler made the engine"
        return PipeLoop(engine, scheduler, on_record, on_death)
    return EngineLoop(engine, scheduler, on_record, on_death)
