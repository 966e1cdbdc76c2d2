"""Instance scheduler: which step an engine runs next, and what became of it.

EcoServe (arXiv 2504.18154), instance level: prefill first while granted prompts wait, else decode
everything that runs; a step is wholly one or the other. Deviations: a turn has a budget, after
which decode resumes with prompts left over; a prompt longer than `max_prefill_tokens` goes in
chunks; when the KV pool runs dry the youngest request is recomputed later (TD-Pipe, section 2).
Pure: time comes in as an argument, in seconds on the caller's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rondo.errors import InvariantError
from rondo.policy.ledger import KvLedger, blocks_for
from rondo.policy.plan import Job, NewToken, PlanItem, StepOutcome, StepPlan
from rondo.policy.turns import HeldTurn, TurnEnd, TurnStart
from rondo.types import Finished, FinishReason, KvOccupancy, Phase, RequestProgress

#: A granted request whose prompt does not come within this time is given up.
PROMPT_WAIT_S = 5.0


class InstanceScheduler:
    """Decides each step of one instance and owns its KV blocks.

    Args:
        ledger: the KV pool. max_running: decode batch limit. max_prefill_tokens: tokens in one
        prefill step. eos_token_ids: tokens that end an answer.
    """

    def __init__(
        self,
        ledger: KvLedger,
        *,
        max_running: int,
        max_prefill_tokens: int,
        eos_token_ids: Iterable[int] = (),
    ) -> None:
        self.ledger = ledger
        self.max_running = max_running
        self.max_prefill_tokens = max_prefill_tokens
        self.decode_steps = 0
        self.num_preempted = 0
        self.phase = Phase.IDLE
        self.turn: HeldTurn | None = None
        self.turn_number = 0
        self._eos = frozenset(eos_token_ids)
        self._jobs: dict[str, Job] = {}
        self._waiting: list[Job] = []  # granted and here, or preempted; in order
        self._running: list[Job] = []  # prefilled, in order of admission
        self._next_order = 0
        self._turn_events: list[TurnStart | TurnEnd] = []

    # Events

    def add(self, job: Job) -> str | None:
        """A prompt arrived. Returns why it can never run here, or None when it was taken."""
        if job.request_id in self._jobs:
            return None
        need = blocks_for(job.prompt_tokens + job.max_tokens, self.ledger.block_size)
        if need > self.ledger.num_blocks:
            return f"needs {need} KV blocks, the instance has {self.ledger.num_blocks}"
        job.order = self._next_order
        self._next_order += 1
        self._jobs[job.request_id] = job
        if self.turn and job.request_id in self.turn.granted:
            self._waiting.append(job)
        return None

    def grant(self, turn: int, request_ids: Sequence[str], budget_s: float, at_s: float) -> None:
        """A token came, or was extended; older turns than the held one are ignored."""
        if turn < self.turn_number:
            return
        if self.turn is None or turn > self.turn.number:
            carried = tuple(self.turn.granted) if self.turn else ()
            self.turn = HeldTurn(turn, budget_s, at_s)
            self.turn.grant(carried, budget_s, at_s)
            self.turn_number = turn
        fresh = [r for r in request_ids if r not in self.turn.granted and not self._started(r)]
        self.turn.grant(fresh, budget_s, at_s)
        self._waiting += [self._jobs[r] for r in fresh if r in self._jobs]

    def revoke(self, turn: int) -> None:
        """The token is taken back; what was granted is still prefilled."""
        if self.turn and self.turn.number == turn:
            self.turn.revoked = True

    def cancel(self, request_id: str) -> bool:
        """Forgets a request and frees its blocks; False when it was not here."""
        if self.turn:
            self.turn.granted.pop(request_id, None)
        job = self._jobs.get(request_id)
        if job is None:
            return False
        self._drop(job)
        return True

    def expire(self, at_s: float) -> tuple[Finished, ...]:
        """Gives up granted requests whose prompt never came."""
        if self.turn is None:
            return ()
        gone = [
            request_id
            for request_id, since_s in self.turn.granted.items()
            if request_id not in self._jobs and at_s - since_s > PROMPT_WAIT_S
        ]
        for request_id in gone:
            del self.turn.granted[request_id]
        return tuple(Finished(request_id, FinishReason.CANCELLED, 0) for request_id in gone)

    # Steps

    def plan(self, at_s: float) -> StepPlan | None:
        """The next step, or None when there is nothing to do."""
        self._close_turn(at_s)
        items = self._prefill_items()
        if items:
            self.phase = Phase.PREFILL
            if self.turn and (start := self.turn.begin(at_s)):
                self._turn_events.append(start)
            return StepPlan(Phase.PREFILL, tuple(items))
        if self._running:
            self.phase = Phase.DECODE
            return StepPlan(Phase.DECODE, tuple(self._decode_items(at_s)))
        self.phase = Phase.IDLE
        return None

    def commit(self, plan: StepPlan, tokens: Mapping[str, int], at_s: float) -> StepOutcome:
        """Takes in the result of a planned step, at its end."""
        new: list[NewToken] = []
        prefilled: list[str] = []
        finished: list[Finished] = []
        context = sum(item.start for item in plan.items)
        if plan.phase is Phase.DECODE:
            self.decode_steps += 1
        for item in plan.items:
            job = self._jobs.get(item.request_id)
            if job is None:
                continue
            job.cached = item.start + item.num_tokens
            if job.cached < job.known:
                continue
            if plan.phase is Phase.PREFILL:
                self._start_running(job, prefilled)
            new.append(self._append(job, tokens[item.request_id], finished))
        return StepOutcome(tuple(new), tuple(prefilled), tuple(finished), context)

    def take_turn_events(self) -> list[TurnStart | TurnEnd]:
        """Turn starts and ends since the last call, in order."""
        events, self._turn_events = self._turn_events, []
        return events

    # Looking in

    @property
    def num_running(self) -> int:
        """Requests that decode."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests here that are not prefilled (or were preempted)."""
        return len(self._jobs) - len(self._running)

    def has(self, request_id: str) -> bool:
        """Whether the request is live here."""
        return request_id in self._jobs

    def occupancy(self) -> KvOccupancy:
        """KV blocks; reserved is what live requests are predicted to grow by."""
        reserved = sum(
            self.ledger.missing(job.request_id, job.final_tokens()) for job in self._jobs.values()
        )
        return self.ledger.occupancy(reserved)

    def members(self, at_s: float) -> tuple[RequestProgress, ...]:
        """All live requests, in order of arrival here."""
        granted = self.turn.granted if self.turn else {}
        return tuple(
            RequestProgress(
                request_id=job.request_id,
                prompt_tokens=job.prompt_tokens,
                max_tokens=job.max_tokens,
                predicted_tokens=job.predicted_tokens,
                tokens_out=job.tokens_out,
                slo=job.slo,
                age_s=at_s - job.arrival_s,
                decode_age_s=None if job.decode_start_s is None else at_s - job.decode_start_s,
                granted=job.tokens_out > 0 or job.request_id in granted,
            )
            for job in self._jobs.values()
        )

    def check_invariants(self) -> None:
        """Raises InvariantError when blocks or lists disagree."""
        self.ledger.check_invariants()
        lists = [*self._waiting, *self._running]
        if len({job.request_id for job in lists}) != len(lists):
            raise InvariantError("a request is in two lists of the instance scheduler")
        if any(self._jobs.get(job.request_id) is not job for job in lists):
            raise InvariantError("a forgotten request is still scheduled")
        if not self._jobs and self.ledger.num_free != self.ledger.num_blocks:
            raise InvariantError("blocks are owned though nothing runs")

    # Internals

    def _started(self, request_id: str) -> bool:
        job = self._jobs.get(request_id)
        return job is not None and (job.tokens_out > 0 or job in self._waiting)

    def _close_turn(self, at_s: float) -> None:
        turn = self.turn
        if turn is None:
            return
        if turn.granted and turn.overdue(at_s) and self._running:
            left = set(turn.granted)
            self._waiting = [job for job in self._waiting if job.request_id not in left]
            self._turn_events.append(turn.end(at_s))
        elif not turn.granted and turn.began_s is not None:
            self._turn_events.append(turn.end(at_s))
        if turn.revoked and not turn.granted:
            self.turn = None

    def _prefill_items(self) -> list[PlanItem]:
        budget = self.max_prefill_tokens
        slots = self.max_running - len(self._running)
        items: list[PlanItem] = []
        for job in self._waiting:
            if budget <= 0 or len(items) >= slots:
                break
            # One free block for each running request keeps them from preempting this one at once.
            missing = self.ledger.missing(job.request_id, job.known)
            if missing and missing + len(self._running) > self.ledger.num_free:
                break
            self.ledger.grow(job.request_id, job.known)
            count = min(job.known - job.cached, budget)
            budget -= count
            table = self.ledger.table(job.request_id)
            items.append(PlanItem(job.request_id, job.cached, count, table))
        return items

    def _decode_items(self, at_s: float) -> list[PlanItem]:
        ready: list[Job] = []
        for job in tuple(self._running):
            if job.cached == 0:
                continue  # preempted for an older one
            while not self.ledger.grow(job.request_id, job.known):
                self._preempt(self._running[-1])
                if job.cached == 0:
                    break
            else:
                ready.append(job)
                if job.decode_start_s is None:
                    job.decode_start_s = at_s
        return [PlanItem(j.request_id, j.cached, 1, self.ledger.table(j.request_id)) for j in ready]

    def _preempt(self, job: Job) -> None:
        self._running.remove(job)
        self.ledger.release(job.request_id)
        job.cached = 0
        self.num_preempted += 1
        self._waiting.insert(0, job)

    def _start_running(self, job: Job, prefilled: list[str]) -> None:
        self._waiting.remove(job)
        self._running.append(job)
        self._running.sort(key=lambda j: j.order)
        if job.tokens_out == 0:
            prefilled.append(job.request_id)
        if self.turn:
            self.turn.done(job.request_id, job.prompt_tokens)

    def _append(self, job: Job, token: int, finished: list[Finished]) -> NewToken:
        index = job.tokens_out
        job.tokens_out += 1
        finish: FinishReason | None = None
        if token in self._eos and not job.ignore_eos:
            finish = FinishReason.STOP
        elif job.tokens_out >= job.max_tokens:
            finish = FinishReason.LENGTH
        if finish:
            self._drop(job)
            finished.append(Finished(job.request_id, finish, job.tokens_out))
        return NewToken(job.request_id, index, token, finish)

    def _drop(self, job: Job) -> None:
        del self._jobs[job.request_id]
        for line in (self._waiting, self._running):
            if job in line:
                line.remove(job)
        self.ledger.release(job.request_id)
