"""The step loop: one thread that owns the engine and its scheduler.

Other threads post actions; they run between two steps. What a step brought is handed to a callback
as one StepRecord. `StepLoop` is what loops do alike, `EngineLoop` runs one step at a time; the loop
with several steps in flight is in `pipe_loop`.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rondo.errors import EngineError
from rondo.policy.instance import InstanceScheduler
from rondo.policy.live import LiveScheduler
from rondo.policy.plan import StepOutcome, StepPlan
from rondo.policy.progress import NOTHING, progress_of
from rondo.policy.turns import TurnEnd, TurnStart
from rondo.service import logs
from rondo.types import Finished, FinishReason, Phase, Progress, StepStat
from rondo_worker.engines.base import NO_LOGPROBS, Engine, StepLogprobs
from rondo_worker.retry import StepResult, run_step, works

log = logging.getLogger("rondo.worker")

#: How often an idle loop looks for grants whose prompt never came.
IDLE_TICK_S = 1.0
#: An engine that failed for all requests of so many steps in a row has to prove that it works.
MAX_FAILURES = 3
#: Actions that may wait for the end of a step.
MAX_WAITING = 65536

Action = Callable[[LiveScheduler, Engine], None]
S = TypeVar("S", bound=LiveScheduler)
E = TypeVar("E", bound=Engine)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What happened in one round of the loop.

    `outcome` is None when no step ran. `error` names requests that a step failed for: they are
    gone. The step was computed from `began_s` to `ended_s`, of the monotonic clock.
    """

    progress: Progress
    turn_events: tuple[TurnStart | TurnEnd, ...] = ()
    outcome: StepOutcome | None = None
    error: EngineError | None = None
    logprobs: StepLogprobs = NO_LOGPROBS
    prefilled: tuple[str, ...] = ()
    began_s: float = 0.0
    ended_s: float = 0.0


@dataclass(frozen=True, slots=True)
class DoneStep:
    """A step that is over. `outcome` is None when parts of it were not computed; `error` names
    those that it failed for. `steps` are what is to be told of times."""

    plan: StepPlan
    result: StepResult
    outcome: StepOutcome | None
    error: EngineError | None
    steps: tuple[StepStat, ...]
    began_s: float
    ended_s: float


class StepLoop(ABC, Generic[S, E]):
    """Runs rounds until stopped, and posted actions between them.

    Args:
        on_record: called on the loop's thread with every StepRecord.
        on_death: called on the loop's thread when the loop ends by an error.
    """

    def __init__(
        self,
        engine: E,
        scheduler: S,
        on_record: Callable[[StepRecord], None],
        on_death: Callable[[Exception], None],
    ) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._tell = on_record
        self._on_death = on_death
        self._peak_bytes = 0
        self._inbox: queue.SimpleQueue[Action | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._failures = 0
        self._step_began_s: float | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def post(self, action: Action) -> bool:
        """Runs `action` between two steps, in order of posting; False when too many wait."""
        taken = self._inbox.qsize() < MAX_WAITING
        if taken:
            self._inbox.put(action)
        return taken

    def stop(self, timeout_s: float) -> None:
        """Ends the loop after its current step and waits for it."""
        self._inbox.put(None)
        self._thread.join(timeout_s)

    def step_age_s(self) -> float:
        """For how long the present step, the oldest one, has been running; 0 between steps."""
        began_s = self._step_began_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    def progress(
        self,
        *,
        full: bool = False,
        outcome: StepOutcome = NOTHING,
        finished: tuple[Finished, ...] = (),
        steps: tuple[StepStat, ...] = (),
    ) -> Progress:
        """The instance's state and what changed. Only on the loop's thread, e.g. from actions."""
        if full:  # what it takes to ask is not worth it after each step
            self._peak_bytes = self._engine.peak_bytes()
        return progress_of(
            self._scheduler,
            time.monotonic(),
            peak_bytes=self._peak_bytes,
            outcome=outcome,
            finished=finished,
            steps=steps,
            full=full,
        )

    def _run(self) -> None:
        try:
            idle = False
            while self._take_actions(wait=idle):
                idle = not self._round()
        except Exception as error:
            log.exception("engine_loop_died")
            self._on_death(error)
        finally:
            self._engine.close()

    def _take_actions(self, *, wait: bool) -> bool:
        """Runs posted actions; False when the loop must end."""
        while True:
            try:
                action = self._inbox.get(block=wait, timeout=IDLE_TICK_S if wait else None)
            except queue.Empty:
                return True
            if action is None:
                return False
            action(self._scheduler, self._engine)
            wait = False

    @abstractmethod
    def _round(self) -> bool:
        """Runs steps; whether there were any."""

    def _announce(
        self,
        expired: tuple[Finished, ...],
        *,
        fell_idle: bool,
        steps: tuple[StepStat, ...] = (),
    ) -> None:
        """Tells what is known before the next step is through, which may take long."""
        turn_events = tuple(self._scheduler.take_turn_events())
        if expired or turn_events or fell_idle:
            self._tell(StepRecord(self.progress(finished=expired, steps=steps), turn_events))

    def _conclude(self, done: DoneStep) -> None:
        """Tells what a step brought."""
        result, outcome = done.result, done.outcome
        for finished in outcome.finished if outcome else ():
            self._engine.remove(finished.request_id)
        progress = self.progress(
            outcome=outcome or NOTHING,
            finished=tuple(Finished(r, FinishReason.ERROR, 0) for r in result.problems),
            steps=done.steps,
        )
        record = StepRecord(
            progress,
            outcome=outcome,
            error=done.error,
            logprobs=result.logprobs,
            prefilled=tuple(chunk.request_id for chunk in done.plan.chunks),
            began_s=done.began_s,
            ended_s=done.ended_s,
        )
        self._tell(record)
        went_well = result.complete and len(result.problems) < len(done.plan.items)
        self._failures = 0 if went_well else self._failures + 1
        if done.error and self._failures >= MAX_FAILURES:
            if not works(self._engine, self._scheduler.ledger):
                raise done.error
            self._failures = 0  # it was the requests' fault

    def _end_failed(self, result: StepResult) -> EngineError | None:
        """Forgets the requests that a step failed for, if there are any."""
        if not result.problems:
            return None
        ids = tuple(result.problems)
        problem = result.problems[ids[0]]
        logs.warning(log, "step_failed", error=problem, requests=len(ids), tries=result.num_tries)
        for request_id in ids:
            self._scheduler.cancel(request_id)
            self._engine.remove(request_id)
        return EngineError(problem, ids)


AnyLoop = StepLoop[Any, Any]


class EngineLoop(StepLoop[InstanceScheduler, Engine]):
    """Plans a step, runs it, takes it in, until stopped; see StepLoop."""

    def _round(self) -> bool:
        scheduler = self._scheduler
        before = scheduler.phase
        expired = scheduler.expire(time.monotonic())
        plan = scheduler.plan(time.monotonic())
        self._announce(expired, fell_idle=plan is None and before is not Phase.IDLE)
        if plan:
            self._step(plan)
        return plan is not None

    def _step(self, plan: StepPlan) -> None:
        self._step_began_s = began_s = time.monotonic()
        result = run_step(self._engine, plan)
        ended_s = time.monotonic()
        self._step_began_s = None
        error = self._end_failed(result)
        # What failed is gone, and so the rest is committed as if nothing else had been planned.
        outcome = self._scheduler.commit(plan, result.tokens) if result.complete else None
        timed = result.num_tries == 1 and not error
        steps = (plan.stat(ended_s - began_s),) if timed else ()
        self._conclude(DoneStep(plan, result, outcome, error, steps, began_s, ended_s))
