"""Instance scheduler: which step an engine runs next, and what became of it.

EcoServe (arXiv 2504.18154), instance level: prefill while granted prompts wait, else decode
everything that runs; how the two share steps is the turn's `Batching` (SEPARATE is the paper's).
Deviations: a turn has a budget, after which decode resumes with prompts left over; a prompt longer
than a step's limit goes in chunks; when the KV pool runs dry the youngest request is recomputed
later (TD-Pipe, section 2), unless an `InstancePolicy` says otherwise. Pure: time comes in as an
argument, in seconds on the caller's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from rondo.policy.board import JobBoard
from rondo.policy.fill import take_chunks, with_decodes
from rondo.policy.instance_policy import InstancePolicy, SpaceUse
from rondo.policy.ledger import KvLedger, blocks_for
from rondo.policy.plan import Job, NewToken, StepOutcome, StepPlan
from rondo.policy.rides import Rides
from rondo.policy.turns import HeldToken, TurnEnd, TurnStart
from rondo.types import (
    Batching,
    BatchKind,
    Finished,
    FinishReason,
    KvOccupancy,
    LatencyModel,
    Phase,
    RequestProgress,
    Started,
)

SEPARATE = Batching()


class InstanceScheduler:
    """Decides each step of one instance and owns its KV blocks.

    Args:
        ledger: the KV pool. max_running: decode batch limit. max_prefill_tokens: of one step.
        eos_token_ids: tokens that end an answer. step_cost: predicts steps. policy: the order of
        prompts and the KV that each request may have; block growth unless given.

    `hands_over` keeps requests from decoding here: they stay prefilled on the board, among those
    `moving`, until another instance has their KV and they are cancelled here.
    """

    def __init__(
        self,
        ledger: KvLedger,
        *,
        max_running: int,
        max_prefill_tokens: int,
        eos_token_ids: Iterable[int] = (),
        step_cost: LatencyModel | None = None,
        policy: InstancePolicy | None = None,
    ) -> None:
        self.ledger = ledger
        self.max_running = max_running
        self.max_prefill_tokens = max_prefill_tokens
        self.hands_over = False
        self.phase = Phase.IDLE
        self.policy = policy or InstancePolicy()
        self.board = JobBoard(ledger, self.policy)
        self.policy.bind(self.board, step_cost, max_prefill_tokens)
        self._rides = Rides(self.board, max_running, max_prefill_tokens, step_cost)
        self._token = HeldToken()
        self._batching = SEPARATE
        self._eos = frozenset(eos_token_ids)
        self._started: list[Started] = []  # with the step that is being planned

    # Events

    def add(self, job: Job) -> str | None:
        """A prompt arrived. Returns why it can never run here, or None when it was taken."""
        if job.request_id in self.board.jobs:
            return None
        need = blocks_for(job.prompt_tokens + job.max_tokens, self.ledger.block_size)
        if need > self.ledger.num_blocks:
            return f"needs {need} KV blocks, the instance has {self.ledger.num_blocks}"
        self.board.enter(job)
        if not job.background and job.request_id in self._token.granted:
            self.policy.queue(job)
        return None

    def grant(
        self,
        turn: int,
        request_ids: Sequence[str],
        budget_s: float,
        at_s: float,
        batching: Batching = SEPARATE,
    ) -> None:
        """A token came, or was extended; older turns than the held one are ignored."""
        granted = self._token.granted
        fresh = [r for r in request_ids if r not in granted and not self._begun(r)]
        if not self._token.grant(turn, fresh, budget_s, at_s):
            return
        self._batching = batching
        for job in [self.board.jobs[r] for r in fresh if r in self.board.jobs]:
            self.policy.queue(job)

    def revoke(self, turn: int) -> None:
        """The token is taken back; what was granted is still prefilled."""
        self._token.revoke(turn)

    def cancel(self, request_id: str) -> bool:
        """Forgets a request and frees its blocks; False when it was not here."""
        self._token.forget(request_id)
        job = self.board.jobs.get(request_id)
        if job is None:
            return False
        self.board.exit(job)
        return True

    def expire(self, at_s: float) -> tuple[Finished, ...]:
        """Gives up granted requests whose prompt never came."""
        return self._token.expire(self.board.jobs, at_s)

    # Steps

    def plan(self, at_s: float) -> StepPlan | None:
        """The next step, or None when there is nothing to do."""
        self._close_turn(at_s)
        plan = self._prefill_step(at_s) if self.board.waiting else None
        plan = plan or self._decode_step(at_s)
        self.phase = plan.phase if plan else Phase.IDLE
        return plan

    def commit(self, plan: StepPlan, tokens: Mapping[str, int]) -> StepOutcome:
        """Takes in the tokens of a planned step, at its end."""
        ends = {item.request_id: item.start + item.num_tokens for item in plan.items}
        indices: dict[str, int] = {}
        jobs = self.board.jobs
        for request_id, token in tokens.items():
            if job := jobs.get(request_id):
                indices[request_id] = ends[request_id] - job.prompt_tokens
                if job.tail is not None:
                    job.tail.append(token)
        stopped = [r for r in indices if tokens[r] in self._eos and not jobs[r].ignore_eos]
        outcome = self.advance(plan, stopped)
        reasons = {finished.request_id: finished.reason for finished in outcome.finished}
        new = tuple(NewToken(r, i, tokens[r], reasons.get(r)) for r, i in indices.items())
        return StepOutcome(new, outcome.prefilled, outcome.started, outcome.finished)

    def advance(self, plan: StepPlan, stopped: Collection[str] = ()) -> StepOutcome:
        """As `commit`, for a caller that knows whose answers end and needs no tokens listed."""
        prefilled: list[str] = []
        finished: list[Finished] = []
        if plan.num_decodes:
            for job in self.board.batch.advance():
                self._finish(job, FinishReason.LENGTH, finished)
        for chunk in plan.chunks:
            if prompt := self.board.jobs.get(chunk.request_id):
                self.board.pool.computed(prompt, chunk.start + chunk.num_tokens)
                if prompt.cached == prompt.known:
                    self._prefilled(prompt, prefilled, finished)
        for request_id in stopped:
            if ended := self.board.jobs.get(request_id):
                self._finish(ended, FinishReason.STOP, finished)
        started, self._started = tuple(self._started), []
        return StepOutcome((), tuple(prefilled), started, tuple(finished))

    def take_turn_events(self) -> list[TurnStart | TurnEnd]:
        """Turn starts and ends since the last call, in order."""
        return self._token.take_events()

    # Looking in

    @property
    def turn_number(self) -> int:
        """The newest turn that it was granted."""
        return self._token.number

    @property
    def decode_steps(self) -> int:
        """Steps with decodes so far."""
        return self.board.batch.steps

    @property
    def num_preempted(self) -> int:
        """Requests that gave their blocks up so far."""
        return self.board.num_preempted

    @property
    def num_running(self) -> int:
        """Requests that are prefilled."""
        return self.board.num_prefilled

    @property
    def num_waiting(self) -> int:
        """Requests here that are not prefilled (or were preempted)."""
        return len(self.board.jobs) - self.num_running - len(self.board.moving)

    def has(self, request_id: str) -> bool:
        """Whether the request is live here."""
        return request_id in self.board.jobs

    def occupancy(self) -> KvOccupancy:
        """KV blocks; reserved is what live requests are predicted to grow by."""
        return self.board.occupancy()

    def space_use(self) -> SpaceUse:
        """KV blocks as the policy counts them."""
        return self.policy.space_use()

    def members(self, at_s: float) -> tuple[RequestProgress, ...]:
        """All live requests, in order of arrival here."""
        return self.board.members(at_s, self._token.granted)

    def check_invariants(self) -> None:
        """Raises InvariantError when blocks or lists disagree."""
        self.board.check_invariants()
        self.policy.check_invariants()

    # Planning

    def _close_turn(self, at_s: float) -> None:
        turn = self._token.turn
        if turn is None or (turn.began_s is None and not turn.revoked):
            return
        if turn.granted:
            if not turn.overdue(at_s) or not self.board.num_foreground:
                return
            self.policy.withdraw(set(turn.granted))
        self._token.close(at_s)

    def _prefill_step(self, at_s: float) -> StepPlan | None:
        """Chunks of waiting prompts, with the decodes that share the step; None: nothing fits."""
        kind = self._batching.kind
        self._started += self.policy.join(at_s, fresh=kind is BatchKind.CHUNKED)
        if kind is not BatchKind.SEPARATE:
            self._rides.rest()
        if ride := kind is not BatchKind.SEPARATE and len(self.board.batch) > 0:
            self.policy.grow()
        slots = self.max_running - self.board.num_foreground
        decodes, most = len(self.board.batch), self.max_prefill_tokens
        budget = self.policy.step_budget(self._batching, most, decodes)
        if not (chunks := take_chunks(self.board, self.policy, budget, slots)):
            return None
        self._token.begin(at_s)
        if not ride or not self.board.batch:
            return StepPlan(Phase.PREFILL, chunks)
        return with_decodes(self.board.batch, self.ledger, Phase.FUSED, chunks)

    def _decode_step(self, at_s: float) -> StepPlan | None:
        if not self.num_running and not self.board.background:
            return None
        self._started += self.policy.join(at_s, fresh=True)
        self._rides.mount()
        self.policy.grow()
        chunks = self._rides.chunks()
        if not (batch := self.board.batch) and not chunks:
            # All of them were preempted for a prompt that is half done.
            return self._prefill_step(at_s) if self.board.waiting else None
        phase = Phase.FUSED if batch else Phase.PREFILL
        plan = with_decodes(batch, self.ledger, phase if chunks else Phase.DECODE, chunks)
        plan.background_tokens = self._rides.num_tokens(plan)
        return plan

    # Committing

    def _prefilled(self, job: Job, prefilled: list[str], finished: list[Finished]) -> None:
        if job.tokens_out == 0:
            prefilled.append(job.request_id)
        self.board.hold(job)
        self.policy.prefilled(job)
        if turn := self._token.turn:
            turn.done(job.request_id, job.prompt_tokens)
        if job.tokens_out >= job.max_tokens:
            self._finish(job, FinishReason.LENGTH, finished)
        elif self.hands_over and not job.background:
            self.board.park(job)

    def _finish(self, job: Job, reason: FinishReason, finished: list[Finished]) -> None:
        self.board.exit(job)
        finished.append(Finished(job.request_id, reason, job.tokens_out))

    def _begun(self, request_id: str) -> bool:
        job = self.board.jobs.get(request_id)
        return job is not None and (
            job.background or job.tokens_out > 0 or job in self.board.waiting
        )
