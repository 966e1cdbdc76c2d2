"""Where each request of a pipeline stands: waiting, held, in one of P batches, or on its way."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Protocol

from rondo.errors import InvariantError
from rondo.policy.decode_batch import DecodeBatch
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job, PlanItem
from rondo.policy.pool import JobPool


class Gate(Protocol):
    """Says when a step is to take no more prompts, beside what the pool says."""

    def is_full(self) -> bool:
        """Whether no further prompt may begin."""
        ...

    def begins(self, job: Job) -> None:
        """A prompt begins: it has its blocks."""


class PipeBoard:
    """Moves jobs between the lists, with their blocks; what runs next is the scheduler's business.

    `waiting` has those to prefill, in order; `held` those prefilled that are in no batch. `sent`
    counts the prompt tokens of a waiting job that are computed or in the pipe. What is in the pipe
    is not touched: a batch that is `away`, and jobs in `in_pipe`.
    """

    def __init__(self, ledger: KvLedger, num_batches: int) -> None:
        self.ledger = ledger
        self.pool = JobPool(ledger)
        self.jobs: dict[str, Job] = {}
        self.waiting: dict[str, Job] = {}
        self.held: dict[str, Job] = {}
        self.batches = [DecodeBatch(ledger.block_size) for _ in range(num_batches)]
        self.away = [False] * num_batches
        self.home: dict[str, int] = {}
        """The batch of each job that is in one."""
        self.in_pipe: dict[str, int] = {}
        """Chunks in the pipe, by job."""
        self.sent: dict[str, int] = {}
        self.doomed: dict[str, Job] = {}
        """Cancelled in the pipe: they own their blocks until their steps are back."""
        self.num_preempted = 0
        self._next_order = 0

    @property
    def num_entered(self) -> int:
        """Requests that ever came."""
        return self._next_order

    @property
    def num_decoding(self) -> int:
        """Jobs that are prefilled."""
        return len(self.held) + len(self.home)

    @property
    def num_live(self) -> int:
        """Jobs that decode, or will when their prefill is back."""
        return self.num_decoding + len(self.in_pipe)

    def enter(self, job: Job) -> None:
        """A request came."""
        job.order = self._next_order
        self._next_order += 1
        self.jobs[job.request_id] = job
        self._queue(job)
        self.pool.enter(job)

    def exit(self, job: Job) -> None:
        """The request is gone, with its blocks; none of its steps is in the pipe."""
        self.withdraw(job)
        self.jobs.pop(job.request_id, None)
        self.doomed.pop(job.request_id, None)
        self.pool.exit(job)

    def doom(self, job: Job) -> None:
        """A job with a step in the pipe is cancelled: it exits when its steps are back."""
        self.doomed[job.request_id] = self.jobs.pop(job.request_id)
        self.waiting.pop(job.request_id, None)
        self.sent.pop(job.request_id, None)

    def withdraw(self, job: Job) -> None:
        """Takes a job out of its list."""
        self.waiting.pop(job.request_id, None)
        self.held.pop(job.request_id, None)
        self.sent.pop(job.request_id, None)
        if (slot := self.home.pop(job.request_id, None)) is not None:
            self.batches[slot].leave(job)

    def is_away(self, job: Job) -> bool:
        """Whether a step in the pipe computes something of the job."""
        slot = self.home.get(job.request_id)
        return job.request_id in self.in_pipe or (slot is not None and self.away[slot])

    # Prefill

    def take_chunks(
        self, budget: int, slots: int, *, spare_blocks: int, split: bool, gate: Gate | None = None
    ) -> list[PlanItem]:
        """Chunks of the first waiting prompts, which get their blocks with it.

        Args:
            budget: tokens that the step may take; without `split` a longer prompt goes alone.
            slots: prompts that the step may take. spare_blocks: blocks that stay free beside them.
        """
        chunks: list[PlanItem] = []
        # Those that have begun come first: they own blocks that others may wait for.
        begun = [self.jobs[request_id] for request_id in self.sent]
        fresh = (job for job in self.waiting.values() if job.request_id not in self.sent)
        for job in chain(begun, fresh):
            if budget <= 0 or len(chunks) >= slots:
                break
            start = self.sent.get(job.request_id, 0)
            count = job.known - start
            if count <= 0:
                continue  # all of it is in the pipe
            if not split and chunks and count > budget:
                break
            if start == 0:
                if (gate and gate.is_full()) or not self.pool.claim(job, spare_blocks):
                    break
                if gate:
                    gate.begins(job)
            start = max(start, job.cached)  # a prefix that is there already
            count = job.known - start
            if split:
                count = min(count, budget)
            budget -= count
            self.sent[job.request_id] = start + count
            self.in_pipe[job.request_id] = self.in_pipe.get(job.request_id, 0) + 1
            table = self.ledger.table(job.request_id)
            chunks.append(PlanItem(job.request_id, start, count, table))
        return chunks

    def chunk_done(self, chunk: PlanItem) -> Job | None:
        """A chunk is back; the job, when with it all of its prompt is."""
        request_id = chunk.request_id
        self.in_pipe[request_id] -= 1
        if not self.in_pipe[request_id]:
            del self.in_pipe[request_id]
        if gone := self.doomed.get(request_id):
            if not self.is_away(gone):
                self.exit(gone)
            return None
        job = self.jobs[request_id]
        self.pool.computed(job, chunk.start + chunk.num_tokens)
        return job if job.cached == job.known else None

    def hold(self, job: Job) -> None:
        """A waiting job is prefilled and has its next token."""
        del self.waiting[job.request_id], self.sent[job.request_id]
        self.held[job.request_id] = job
        job.tokens_out += 1

    # Decode

    def join(self, job: Job, slot: int) -> None:
        """A held job goes into a batch that is at home."""
        del self.held[job.request_id]
        self.batches[slot].join(job)
        self.home[job.request_id] = slot

    def hold_back(self, job: Job) -> None:
        """A job leaves its batch, which is at home, and is held."""
        self.batches[self.home.pop(job.request_id)].leave(job)
        self.held[job.request_id] = job

    def gained(self, job: Job) -> int:
        """Tokens that the job got since it joined its batch."""
        slot = self.home.get(job.request_id)
        return 0 if slot is None else self.batches[slot].gained(job)

    def grow(self, slot: int) -> None:
        """Gives each job of a batch the block that its next token needs; the youngest that is not
        in the pipe is preempted for it."""
        batch = self.batches[slot]
        for job in batch.growing():
            while job.base_step is not None:
                if self.pool.grow(job, job.known + batch.gained(job)):
                    break
                self._preempt_youngest()

    def prefilled(self) -> Iterable[Job]:
        """Jobs that are prefilled: the batches', then those held."""
        for batch in self.batches:
            yield from batch
        yield from self.held.values()

    def check_invariants(self) -> None:
        """Raises InvariantError when blocks or lists disagree."""
        self.ledger.check_invariants()
        owners = [*self.jobs.values(), *self.doomed.values()]
        self.pool.check_invariants(owners)
        for slot, batch in enumerate(self.batches):
            batch.check_invariants()
            if any(self.home.get(job.request_id) != slot for job in batch):
                raise InvariantError("a request is in a batch that is not its own")
        ids = [*self.waiting, *self.held, *self.home]
        known = self.jobs.keys() | (self.doomed.keys() & self.home.keys())
        if len(set(ids)) != len(ids) or set(ids) != known:
            raise InvariantError(
                "a request is in two lists of the pipeline's scheduler, or in none"
            )
        if not owners and self.ledger.num_free != self.ledger.num_blocks:
            raise InvariantError("blocks are owned though nothing runs")

    def _queue(self, job: Job) -> None:
        """Puts a job behind all that wait, but in front of background ones."""
        waiting = self.waiting
        if not job.background and waiting and next(reversed(waiting.values())).background:
            behind = {name: each for name, each in waiting.items() if each.background}
            self.waiting = {name: each for name, each in waiting.items() if name not in behind}
            self.waiting |= {job.request_id: job, **behind}
        else:
            waiting[job.request_id] = job

    def _preempt_youngest(self) -> None:
        """Frees the youngest job's blocks. Some job is at home: the one that wants to grow."""
        begun = (self.jobs[request_id] for request_id in self.sent)
        owners = (job for job in chain(self.prefilled(), begun) if not self.is_away(job))
        victim = max(owners, key=lambda job: job.order)
        self.withdraw(victim)
        self.pool.free(victim)
        victim.num_preempted += 1
        self.num_preempted += 1
        self.waiting = {victim.request_id: victim, **self.waiting}
