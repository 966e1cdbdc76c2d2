"""What all schedulers of a pipeline do alike: requests come and go, steps go out and come back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from rondo.errors import InvariantError
from rondo.policy.fill import with_decodes
from rondo.policy.ledger import KvLedger, blocks_for
from rondo.policy.plan import Job, PlanItem, StepOutcome, StepPlan
from rondo.policy.tdpipe.board import PipeBoard
from rondo.policy.tdpipe.settings import PipeSettings
from rondo.types import Finished, FinishReason, LatencyModel, Phase


@dataclass(frozen=True, slots=True, eq=False)
class PipeSetup:
    """What a scheduler schedules for.

    `ledger` has the blocks of one stage's KV pool; all stages use the same block numbers.
    `latency` predicts a step of the *whole* model, all `num_stages` stages one after the other; a
    stage takes an equal share of it.
    """

    ledger: KvLedger
    latency: LatencyModel
    num_stages: int
    settings: PipeSettings = field(default_factory=PipeSettings)


@dataclass(frozen=True, slots=True, eq=False)
class PipeStep:
    """A step in the pipe: its number, and the batch (0 to P - 1) that decodes in it, if any."""

    number: int
    slot: int | None
    plan: StepPlan


class PipeScheduler(ABC):
    """Decides the steps of one pipeline and owns its KV blocks; see the package's docstring."""

    def __init__(self, setup: PipeSetup) -> None:
        if setup.num_stages < 1:
            raise ValueError(f"no pipeline of {setup.num_stages} stages")
        self.setup = setup
        self.num_stages = setup.num_stages
        self.latency = setup.latency
        self.settings = setup.settings
        self.board = PipeBoard(setup.ledger, setup.num_stages)
        self.num_phase_switches = 0
        """Changes between prefilling and decoding so far."""
        self._in_flight: deque[PipeStep] = deque()
        self._num_steps = 0

    # Requests

    def add(self, job: Job) -> str | None:
        """A request came. Returns why it can never run here, or None when it was taken."""
        if job.request_id in self.board.jobs or job.request_id in self.board.doomed:
            return None
        if problem := self.refusal(job):
            return problem
        self.board.enter(job)
        return None

    def refusal(self, job: Job) -> str | None:
        """Why a request can never run here; None: it can."""
        ledger = self.board.ledger
        need = blocks_for(job.prompt_tokens + job.max_tokens, ledger.block_size)
        if need > ledger.num_blocks:
            return f"needs {need} KV blocks, the pipeline has {ledger.num_blocks}"
        return None

    def cancel(self, request_id: str) -> bool:
        """Forgets a request; False when it was not here. What is in the pipe keeps its blocks."""
        job = self.board.jobs.get(request_id)
        if job is None:
            return False
        if self.board.is_away(job):
            self.board.doom(job)
        else:
            self.board.exit(job)
        return True

    # Steps

    def next_step(self, now_s: float) -> PipeStep | None:
        """The step that enters the pipe next; None: nothing before something changes."""
        step = self._plan(now_s)
        if step is not None:
            self._in_flight.append(step)
        return step

    def on_step_done(
        self, step: PipeStep, now_s: float, stopped: Collection[str] = ()
    ) -> StepOutcome:
        """The oldest step is back; `stopped` are the requests whose token of it ends the answer.

        Raises:
            InvariantError: it is not the oldest.
        """
        if not self._in_flight or self._in_flight[0] is not step:
            raise InvariantError(f"step {step.number} is not the oldest in the pipe")
        self._in_flight.popleft()
        board = self.board
        prefilled: list[str] = []
        finished: list[Finished] = []
        fresh: list[Job] = []
        if step.slot is not None:
            self._batch_home(step.slot, finished)
        for chunk in step.plan.chunks:
            if job := board.chunk_done(chunk):
                if job.tokens_out == 0:
                    prefilled.append(job.request_id)
                board.hold(job)
                fresh.append(job)
                if job.tokens_out >= job.max_tokens:
                    self._finish(job, FinishReason.LENGTH, finished)
        for request_id in stopped:
            if ended := board.jobs.get(request_id):
                self._finish(ended, FinishReason.STOP, finished)
        self._after(step, [job for job in fresh if job.request_id in board.held])
        return StepOutcome((), tuple(prefilled), (), tuple(finished))

    # Looking in

    @property
    def has_work(self) -> bool:
        """Whether requests are live, or steps in the pipe."""
        return bool(self.board.jobs or self._in_flight)

    @property
    def num_in_flight(self) -> int:
        """Steps in the pipe."""
        return len(self._in_flight)

    @property
    def num_preempted(self) -> int:
        """Times that a request gave its blocks up and was, or is to be, prefilled again."""
        return self.board.num_preempted

    def has(self, request_id: str) -> bool:
        """Whether the request is live here."""
        return request_id in self.board.jobs

    def check_invariants(self) -> None:
        """Raises InvariantError when blocks or lists disagree."""
        self.board.check_invariants()
        away = {step.slot for step in self._in_flight if step.slot is not None}
        if away != {slot for slot, gone in enumerate(self.board.away) if gone}:
            raise InvariantError("a batch is away without a step in the pipe, or twice in it")
        if sum(self.board.in_pipe.values()) != sum(len(s.plan.chunks) for s in self._in_flight):
            raise InvariantError("chunks in the pipe are miscounted")

    # For the kinds of scheduler

    @abstractmethod
    def _plan(self, now_s: float) -> PipeStep | None:
        """The next step, or None."""

    def _after(self, step: PipeStep, fresh: list[Job]) -> None:  # noqa: B027 - may do nothing
        """A step is back; `fresh` are the jobs that it prefilled and that go on, held."""

    def _step(self, chunks: list[PlanItem], slot: int | None) -> PipeStep:
        """A step of these chunks and this batch, which goes away with it."""
        self._num_steps += 1
        if slot is None:
            return PipeStep(self._num_steps, None, StepPlan(Phase.PREFILL, chunks))
        board = self.board
        board.away[slot] = True
        phase = Phase.FUSED if chunks else Phase.DECODE
        plan = with_decodes(board.batches[slot], board.ledger, phase, chunks)
        return PipeStep(self._num_steps, slot, plan)

    def _batch_home(self, slot: int, finished: list[Finished]) -> None:
        board = self.board
        board.away[slot] = False
        # A batch may still list a job that went to another one, with an end in that one's count.
        listed = board.batches[slot].advance()
        ended = [job for job in listed if board.home.get(job.request_id) == slot]
        gone = [job for job in board.doomed.values() if board.home.get(job.request_id) == slot]
        for job in gone:
            board.exit(job)
        for job in ended:
            if job.request_id in board.jobs:
                self._finish(job, FinishReason.LENGTH, finished)

    def _finish(self, job: Job, reason: FinishReason, finished: list[Finished]) -> None:
        self.board.exit(job)
        finished.append(Finished(job.request_id, reason, job.tokens_out))
