"""A pipeline's scheduler as the scheduler of a live instance: grants, tokens, reports.

A granted prompt goes to the `PipeScheduler`, which alone decides when it runs, for throughput: no
budget ends a turn, and its batching does not count. Background requests need no grant and are
treated like all others. What the macro scheduler is told is what any instance tells: turns by
`HeldToken`, decode steps by `Rounds`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job, NewToken, StepOutcome
from rondo.policy.tdpipe.base import PipeScheduler, PipeStep
from rondo.policy.tdpipe.board import PipeBoard
from rondo.policy.tdpipe.rounds import Rounds
from rondo.policy.turns import HeldToken, TurnEnd, TurnStart
from rondo.types import (
    Batching,
    Finished,
    KvOccupancy,
    Phase,
    RequestProgress,
    Started,
    StepStat,
)

SEPARATE = Batching()


class PipeInstance:
    """Implements `LiveScheduler` over a pipeline's scheduler.

    Args:
        max_running, max_prefill_tokens: what the instance says of itself; the scheduler's own
            settings bound its steps. eos_token_ids: tokens that end an answer.

    `next_step` until it has none, then `land` for the oldest step when its tokens are back, as
    with `PipeScheduler`. A request may come again under the same id while a step in the pipe still
    computes its predecessor: it waits for that.
    """

    def __init__(
        self,
        pipe: PipeScheduler,
        *,
        max_running: int,
        max_prefill_tokens: int,
        eos_token_ids: Iterable[int] = (),
    ) -> None:
        self.pipe = pipe
        self.max_running = max_running
        self.max_prefill_tokens = max_prefill_tokens
        self.phase = Phase.IDLE
        self._eos = frozenset(eos_token_ids)
        self._token = HeldToken()
        self._rounds = Rounds(pipe.num_stages)
        self._jobs: dict[str, Job] = {}  # in order of arrival
        self._granted: dict[str, Job] = {}  # that go to the scheduler before its next step
        self._unstarted: dict[str, Job] = {}  # prefilled, not in a decode step yet
        self._began_s: dict[int, float] = {}  # of the steps in the pipe, by number
        self._started: dict[int, list[Started]] = {}
        self._num_background = 0

    # Requests

    def add(self, job: Job) -> str | None:
        """A prompt arrived. Returns why it can never run here, or None when it was taken."""
        if job.request_id in self._jobs:
            return None
        if problem := self.pipe.refusal(job):
            return problem
        job.tail = None  # answers are not kept for others
        self._jobs[job.request_id] = job
        self._num_background += job.background
        if job.background or job.request_id in self._token.granted:
            self._granted[job.request_id] = job
        return None

    def grant(
        self,
        turn: int,
        request_ids: Sequence[str],
        budget_s: float,
        at_s: float,
        batching: Batching = SEPARATE,
    ) -> None:
        """A token came, or was extended. Neither its budget nor its batching counts here."""
        fresh = [r for r in request_ids if r not in self._jobs or self._is_held_up(r)]
        if self._token.grant(turn, fresh, budget_s, at_s):
            self._granted |= {r: self._jobs[r] for r in fresh if r in self._jobs}

    def revoke(self, turn: int) -> None:
        """The token is taken back; what was granted is still prefilled."""
        self._token.revoke(turn)

    def cancel(self, request_id: str) -> bool:
        """Forgets a request; False when it was not here. What is in the pipe keeps its blocks until
        its step is back."""
        self._token.forget(request_id)
        if request_id not in self._jobs:
            return False
        self._forget(request_id)
        self._granted.pop(request_id, None)
        self.pipe.cancel(request_id)
        return True

    def expire(self, at_s: float) -> tuple[Finished, ...]:
        """Gives up granted requests whose prompt never came."""
        return self._token.expire(self._jobs, at_s)

    # Steps

    def next_step(self, at_s: float) -> PipeStep | None:
        """The step that enters the pipe next; None: nothing before something changes."""
        if not self._token.granted:
            self._token.close(at_s)
        self._enter()
        step = self.pipe.next_step(at_s)
        if step is None:
            if not self.pipe.num_in_flight:
                self.phase = Phase.IDLE
                self._rounds.close()
            return None
        self.phase = step.plan.phase
        self._began_s[step.number] = at_s
        granted = self._token.granted
        if any(chunk.request_id in granted for chunk in step.plan.chunks):
            self._token.begin(at_s)
        if step.slot is not None and self._unstarted:
            self._started[step.number] = self._start(step.slot, at_s)
        if self._num_background:
            step.plan.background_tokens = self._background_tokens(step)
        return step

    def land(
        self, step: PipeStep, tokens: Mapping[str, int], at_s: float, *, timed: bool = True
    ) -> StepOutcome:
        """The oldest step is back with these tokens; not `timed`: how long it took says nothing."""
        pipe, plan = self.pipe, step.plan
        live = {r: token for r, token in tokens.items() if pipe.has(r)}
        ends = {item.request_id: item.start + item.num_tokens for item in plan.items}
        indices = {r: ends[r] - self._jobs[r].prompt_tokens for r in live}
        stopped = [r for r in live if live[r] in self._eos and not self._jobs[r].ignore_eos]
        self._rounds.land(plan, step.slot, self._began_s.pop(step.number), at_s, timed=timed)
        outcome = pipe.on_step_done(step, at_s, stopped)
        for request_id in outcome.prefilled:
            job = self._unstarted[request_id] = self._jobs[request_id]
            if turn := self._token.turn:
                turn.done(request_id, job.prompt_tokens)
        for finished in outcome.finished:
            self._forget(finished.request_id)
        reasons = {finished.request_id: finished.reason for finished in outcome.finished}
        new = tuple(NewToken(r, i, live[r], reasons.get(r)) for r, i in indices.items())
        started = tuple(self._started.pop(step.number, ()))
        return StepOutcome(new, outcome.prefilled, started, outcome.finished)

    def take_steps(self) -> tuple[StepStat, ...]:
        """What is to be told of steps since the last call; see `Rounds`."""
        return self._rounds.take()

    def take_turn_events(self) -> list[TurnStart | TurnEnd]:
        """Turn starts and ends since the last call, in order."""
        return self._token.take_events()

    # Looking in

    @property
    def ledger(self) -> KvLedger:
        """The blocks of one stage's KV pool; all stages use the same numbers."""
        return self.pipe.board.ledger

    @property
    def board(self) -> PipeBoard:
        """Where requests stand that were granted."""
        return self.pipe.board

    @property
    def turn_number(self) -> int:
        """The newest turn that it was granted."""
        return self._token.number

    @property
    def decode_steps(self) -> int:
        """Rounds of the decode batches so far."""
        return self._rounds.num

    @property
    def num_running(self) -> int:
        """Requests that are prefilled."""
        board = self.pipe.board
        return board.num_decoding - sum(request_id in board.home for request_id in board.doomed)

    @property
    def num_waiting(self) -> int:
        """Requests here that are not prefilled (or were preempted)."""
        return len(self._jobs) - self.num_running

    def has(self, request_id: str) -> bool:
        """Whether the request is live here."""
        return request_id in self._jobs

    def members(self, at_s: float) -> tuple[RequestProgress, ...]:
        """All live requests, in order of arrival here."""
        gained = self.pipe.board.gained
        return tuple(
            job.progress(at_s, gained(job), granted=not self._is_held_up(job.request_id))
            for job in self._jobs.values()
        )

    def occupancy(self) -> KvOccupancy:
        """KV blocks. Background requests' are named, though nobody is preferred to them here: who
        places such requests counts them by itself."""
        kv = self.pipe.board.pool.occupancy()
        if not self._num_background:
            return kv
        held, blocks = self.ledger.held, kv.used_blocks
        if self._num_background < len(self._jobs):
            blocks = sum(held(job.request_id) for job in self._jobs.values() if job.background)
        return msgspec.structs.replace(kv, background_blocks=min(blocks, kv.used_blocks))

    def check_invariants(self) -> None:
        """Raises InvariantError when blocks or lists disagree."""
        self.pipe.check_invariants()

    # Internals

    def _is_held_up(self, request_id: str) -> bool:
        """Whether a request that is here waits for its grant."""
        return request_id not in self._granted and not self.pipe.has(request_id)

    def _enter(self) -> None:
        """Hands granted requests to the scheduler, in the order of their grants."""
        doomed = self.pipe.board.doomed
        for request_id in [r for r in self._granted if r not in doomed]:
            self.pipe.add(self._granted.pop(request_id))

    def _start(self, slot: int, at_s: float) -> list[Started]:
        """The requests whose first decode step goes into the pipe."""
        home, started = self.pipe.board.home, []
        for job in [j for r, j in self._unstarted.items() if home.get(r) == slot]:
            del self._unstarted[job.request_id]
            job.decode_start_s = at_s
            started.append(Started(job.request_id, self._rounds.num))
        return started

    def _background_tokens(self, step: PipeStep) -> int:
        jobs, plan = self._jobs, step.plan
        if self._num_background == len(jobs):
            return plan.prompt_tokens + plan.num_decodes
        return sum(i.num_tokens for i in plan.items if jobs[i.request_id].background)

    def _forget(self, request_id: str) -> None:
        job = self._jobs.pop(request_id)
        self._unstarted.pop(request_id, None)
        self._num_background -= job.background
