"""Drives one instance scheduler over an engine, open loop, and keeps what happened.

The same loop serves simulated and real runs: the engine brings the clock. Every request is granted
as it arrives, so what waits, and in which order, is the instance policy's business alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rondo.errors import InvariantError
from rondo.policy.instance import InstanceScheduler
from rondo.policy.plan import Job, StepOutcome, StepPlan
from rondo.types import Batching, Slo
from rondo_bench.sim.ends import answers_ending

#: Who owns the blocks that are in no table is asked for at every so many steps: it costs more than
#: to plan one.
SPACE_EVERY = 16


@dataclass(frozen=True, slots=True)
class Offered:
    """A request that will come at `at_s`, seconds from the beginning of the run.

    `output_tokens` is how long its answer turns out to be, which no scheduler sees;
    `predicted_tokens` is what it is told instead, `limit_tokens` the most that the user allows.
    """

    request_id: str
    at_s: float
    prompt_tokens: int
    output_tokens: int
    predicted_tokens: int
    limit_tokens: int
    slo: Slo

    def job(self, arrival_s: float) -> Job:
        """The request as its instance sees it."""
        return Job(
            self.request_id,
            self.prompt_tokens,
            self.limit_tokens,
            self.predicted_tokens,
            self.slo,
            arrival_s,
        )


class Engine(Protocol):
    """What computes the steps; its clock starts at 0 with the run."""

    def now_s(self) -> float:
        """Seconds since the beginning of the run."""
        ...

    def wait_until(self, at_s: float) -> None:
        """Returns when the clock shows `at_s`: there is nothing to compute before."""
        ...

    def add(self, offered: Offered) -> None:
        """A request arrived: its steps may come from now on."""
        ...

    def execute(self, plan: StepPlan) -> Mapping[str, int] | None:
        """Computes a step, which takes time on the clock.

        Returns the new token of each request that got one; None where no tokens are made: then
        answers end after `Offered.output_tokens`.
        """
        ...

    def remove(self, request_id: str) -> None:
        """A request has ended."""
        ...


@dataclass(slots=True)
class Life:
    """What became of a request; instants stay None until they happen."""

    offered: Offered
    job: Job
    arrived_s: float
    first_token_s: float | None = None
    end_s: float | None = None
    tokens_out: int = 0
    text: list[int] = field(default_factory=list)
    """Its tokens, where the engine makes any."""

    @property
    def num_preempted(self) -> int:
        """How often it lost its KV and was prefilled again."""
        return self.job.num_preempted


@dataclass(frozen=True, slots=True)
class StepSample:
    """One step, and how the KV pool stood while it ran (blocks).

    `used_blocks` are in tables; `owned_blocks`, `lent_blocks` and `num_paused` are as the policy
    said at the latest (`SPACE_EVERY`); see `SpaceUse`.
    """

    began_s: float
    duration_s: float
    used_blocks: int
    owned_blocks: int
    lent_blocks: int
    num_paused: int
    prompt_tokens: int
    num_decodes: int

    @property
    def forward_tokens(self) -> int:
        """Tokens that the step computed."""
        return self.prompt_tokens + self.num_decodes


@dataclass(slots=True)
class Run:
    """What one run did: requests in order of arrival, steps in order of time."""

    lives: dict[str, Life] = field(default_factory=dict)
    steps: list[StepSample] = field(default_factory=list)
    num_blocks: int = 0
    num_finished: int = 0
    num_preempted: int = 0
    """Times that a request lost its KV."""


def drive(
    scheduler: InstanceScheduler,
    offered: Sequence[Offered],
    engine: Engine,
    batching: Batching,
    *,
    backlog: int = 0,
    stop_after: int | None = None,
) -> Run:
    """Serves the requests and returns what happened.

    Args:
        offered: in order of time.
        batching: what every grant says.
        backlog: above 0, `at_s` is not looked at: a request comes as soon as fewer than that many
            wait for their prefill.
        stop_after: the run ends with so many answers; None: with the last one.

    Raises:
        InvariantError: a request was refused, or the scheduler stopped with requests left.
    """
    return _Drive(scheduler, offered, engine, batching, backlog, stop_after).run()


class _Drive:
    """The state of one run."""

    def __init__(
        self,
        scheduler: InstanceScheduler,
        offered: Sequence[Offered],
        engine: Engine,
        batching: Batching,
        backlog: int,
        stop_after: int | None,
    ) -> None:
        self._scheduler = scheduler
        self._offered = offered
        self._engine = engine
        self._batching = batching
        self._backlog = backlog
        self._wanted = len(offered) if stop_after is None else min(stop_after, len(offered))
        self._num_arrived = 0
        self._space = scheduler.space_use()
        self._record = Run(num_blocks=scheduler.ledger.num_blocks)

    def run(self) -> Run:
        record, engine, scheduler = self._record, self._engine, self._scheduler
        while record.num_finished < self._wanted:
            now_s = engine.now_s()
            self._arrive(now_s)
            if (plan := scheduler.plan(now_s)) is not None:
                self._step(plan, now_s)
            elif self._num_arrived < len(self._offered) and not self._backlog:
                engine.wait_until(self._offered[self._num_arrived].at_s)
            else:
                left = self._num_arrived - record.num_finished
                raise InvariantError(f"the scheduler stopped with {left} requests left")
        record.num_preempted = scheduler.num_preempted
        return record

    def _arrive(self, now_s: float) -> None:
        came: list[str] = []
        while self._num_arrived < len(self._offered):
            offered = self._offered[self._num_arrived]
            if self._backlog:
                if self._scheduler.num_waiting >= self._backlog:
                    break
            elif offered.at_s > now_s:
                break
            self._num_arrived += 1
            arrived_s = now_s if self._backlog else offered.at_s
            job = offered.job(arrived_s)
            self._engine.add(offered)
            if refused := self._scheduler.add(job):
                raise InvariantError(f"{offered.request_id} {refused}")
            self._record.lives[offered.request_id] = Life(offered, job, arrived_s)
            came.append(offered.request_id)
        if came:
            self._scheduler.grant(1, came, float("inf"), now_s, self._batching)

    def _step(self, plan: StepPlan, now_s: float) -> None:
        ledger = self._scheduler.ledger
        used_blocks = ledger.num_blocks - ledger.num_free
        if len(self._record.steps) % SPACE_EVERY == 0:
            self._space = self._scheduler.space_use()
        tokens = self._engine.execute(plan)
        ended_s = self._engine.now_s()
        self._record.steps.append(
            StepSample(
                began_s=now_s,
                duration_s=ended_s - now_s,
                used_blocks=used_blocks,
                owned_blocks=self._space.owned,
                lent_blocks=self._space.lent,
                num_paused=self._space.num_paused,
                prompt_tokens=plan.prompt_tokens,
                num_decodes=plan.num_decodes,
            )
        )
        if tokens is None:
            ending = answers_ending(self._scheduler.board, plan, self._answer_tokens)
            outcome = self._scheduler.advance(plan, ending)
        else:
            outcome = self._scheduler.commit(plan, tokens)
        self._keep(outcome, ended_s)

    def _answer_tokens(self, request_id: str) -> int:
        return self._record.lives[request_id].offered.output_tokens

    def _keep(self, outcome: StepOutcome, now_s: float) -> None:
        lives = self._record.lives
        for new in outcome.tokens:
            lives[new.request_id].text.append(new.token)
        for request_id in outcome.prefilled:
            lives[request_id].first_token_s = now_s
        for finished in outcome.finished:
            life = lives[finished.request_id]
            life.end_s, life.tokens_out = now_s, finished.tokens_out
            self._record.num_finished += 1
            self._engine.remove(finished.request_id)
