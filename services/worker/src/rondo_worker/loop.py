"""The step loop: one thread that owns the engine and its scheduler.

Other threads post actions; they run between two steps. What a step brought is handed to a callback
as one StepRecord.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from rondo.errors import EngineError
from rondo.policy.instance import InstanceScheduler
from rondo.policy.plan import StepOutcome, StepPlan
from rondo.policy.progress import NOTHING, progress_of
from rondo.policy.turns import TurnEnd, TurnStart
from rondo.service import logs
from rondo.types import Finished, FinishReason, Phase, Progress, StepStat
from rondo_worker.engines.base import Engine

log = logging.getLogger("rondo.worker")

#: How often an idle loop looks for grants whose prompt never came.
IDLE_TICK_S = 1.0
#: After this many failed steps in a row the engine is taken for broken.
MAX_FAILURES = 3

Action = Callable[[InstanceScheduler, Engine], None]


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What happened in one round of the loop.

    `outcome` is None when no step ran. `error` names what failed; its requests are gone.
    """

    progress: Progress
    turn_events: tuple[TurnStart | TurnEnd, ...] = ()
    outcome: StepOutcome | None = None
    error: EngineError | None = None


class EngineLoop:
    """Runs plan, step, commit until stopped.

    Args:
        on_record: called on the loop's thread with every StepRecord.
        on_death: called on the loop's thread when the loop ends by an error.
    """

    def __init__(
        self,
        engine: Engine,
        scheduler: InstanceScheduler,
        on_record: Callable[[StepRecord], None],
        on_death: Callable[[Exception], None],
    ) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._on_record = on_record
        self._on_death = on_death
        self._inbox: queue.SimpleQueue[Action | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._failures = 0

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def post(self, action: Action) -> None:
        """Runs `action` between two steps, in order of posting."""
        self._inbox.put(action)

    def stop(self, timeout_s: float) -> None:
        """Ends the loop after its current step and waits for it."""
        self._inbox.put(None)
        self._thread.join(timeout_s)

    def progress(
        self,
        *,
        full: bool = False,
        outcome: StepOutcome = NOTHING,
        finished: tuple[Finished, ...] = (),
        stat: StepStat | None = None,
    ) -> Progress:
        """The instance's state and what changed. Only on the loop's thread, e.g. from actions."""
        return progress_of(
            self._scheduler,
            time.monotonic(),
            outcome=outcome,
            finished=finished,
            steps=(stat,) if stat else (),
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

    def _round(self) -> bool:
        """One step, if there is one; whether there was."""
        scheduler = self._scheduler
        before = scheduler.phase
        expired = scheduler.expire(time.monotonic())
        plan = scheduler.plan(time.monotonic())
        turn_events = tuple(scheduler.take_turn_events())
        fell_idle = plan is None and before is not Phase.IDLE
        if expired or turn_events or fell_idle:  # told before the step, which may take long
            self._on_record(StepRecord(self.progress(finished=expired), turn_events))
        if plan:
            self._on_record(self._step(plan))
        return plan is not None

    def _step(self, plan: StepPlan) -> StepRecord:
        started_s = time.monotonic()
        try:
            tokens = self._engine.step(plan)
        except EngineError as error:
            return self._fail(plan, error)
        self._failures = 0
        ended_s = time.monotonic()
        outcome = self._scheduler.commit(plan, tokens)
        for finished in outcome.finished:
            self._engine.remove(finished.request_id)
        stat = plan.stat(ended_s - started_s)
        return StepRecord(self.progress(outcome=outcome, stat=stat), outcome=outcome)

    def _fail(self, plan: StepPlan, error: EngineError) -> StepRecord:
        """Ends the requests of a failed step; gives up when failures do not stop."""
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            raise error
        ids = error.request_ids or tuple(item.request_id for item in plan.items)
        logs.warning(log, "step_failed", error=error.problem, requests=len(ids))
        for request_id in ids:
            self._scheduler.cancel(request_id)
            self._engine.remove(request_id)
        ended = tuple(Finished(request_id, FinishReason.ERROR, 0) for request_id in ids)
        progress = self.progress(finished=ended)
        return StepRecord(progress, error=EngineError(error.problem, ids))
