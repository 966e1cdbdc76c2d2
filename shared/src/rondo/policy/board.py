"""Where each request of an instance stands: waiting, held after its prefill, or decoding."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Protocol

import msgspec

from rondo.errors import InvariantError
from rondo.policy.background import BackgroundJobs
from rondo.policy.decode_batch import DecodeBatch
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job
from rondo.policy.pool import JobPool
from rondo.types import KvOccupancy, RequestProgress, Started


class BoardRules(Protocol):
    """What the board leaves to the instance's policy; see `InstancePolicy`."""

    def requeue(self, job: Job) -> None:
        """A prefilled request gave its blocks up: it waits again."""

    def takes(self, job: Job) -> bool:
        """Whether a request whose KV comes from elsewhere may have blocks here."""
        ...

    def released(self, job: Job) -> None:
        """The request's blocks were taken back."""

    def parked(self, job: Job) -> None:
        """The request keeps its blocks and decodes elsewhere."""


class JobBoard:
    """Moves jobs between the lists, with their blocks; what runs next is the scheduler's business.

    `jobs` has them all, in order of arrival. `waiting` has those to prefill now: granted ones and
    preempted ones. `moving` has those whose KV is to go to another instance, and those whose KV is
    on its way here: both own their blocks and do not run. A job in no list waits for its grant.
    `background` has the jobs that need no grant and run beside the others, or after them.
    """

    def __init__(self, ledger: KvLedger, rules: BoardRules) -> None:
        self.ledger = ledger
        self.pool = JobPool(ledger)
        self._rules = rules
        self.jobs: dict[str, Job] = {}
        self.waiting: list[Job] = []
        self.held: dict[str, Job] = {}
        self.moving: dict[str, Job] = {}
        self.background = BackgroundJobs()
        self.batch = DecodeBatch(ledger.block_size)
        self.num_preempted = 0
        self._next_order = 0

    @property
    def num_prefilled(self) -> int:
        """Jobs that decode, are held or set aside."""
        return self.num_foreground + self.background.num_prefilled

    @property
    def num_decoding(self) -> int:
        """Foreground jobs that decode."""
        return len(self.batch) - len(self.background.riding)

    @property
    def num_foreground(self) -> int:
        """Foreground jobs that decode or are held."""
        return len(self.batch) - len(self.background.riding) + len(self.held)

    def enter(self, job: Job) -> None:
        """A request came."""
        job.order = self._next_order
        self._next_order += 1
        self.jobs[job.request_id] = job
        if job.background:
            self.background.waiting.append(job)
        self.pool.enter(job)

    def exit(self, job: Job) -> None:
        """The request is gone, with its blocks."""
        waiting = self._queue_of(job)
        if not self._withdraw(job) and job in waiting:
            waiting.remove(job)
        del self.jobs[job.request_id]
        self.pool.exit(job)
        self._rules.released(job)

    def hold(self, job: Job) -> None:
        """A waiting job is prefilled and has its next token."""
        if job.background:
            self.background.computed(job)
        else:
            self.waiting.remove(job)
            self.held[job.request_id] = job
        job.tokens_out += 1

    def park(self, job: Job) -> None:
        """A held job will decode elsewhere; it keeps its blocks until it exits."""
        self.moving[job.request_id] = self.held.pop(job.request_id)
        self._rules.parked(job)

    def expect(self, job: Job) -> bool:
        """Takes a job that was prefilled elsewhere, with blocks for the KV that is to come; False,
        and nothing changed, when there are not enough."""
        if self.ledger.missing(job.request_id, job.cached) > self.ledger.num_free:
            return False
        if not self._rules.takes(job):
            return False
        self.enter(job)
        self.pool.grow(job, job.cached)
        self.moving[job.request_id] = job
        return True

    def land(self, request_id: str) -> None:
        """The KV of an expected job is here: it may decode."""
        self.held[request_id] = self.moving.pop(request_id)

    def claim(self, job: Job, spare_blocks: int) -> bool:
        """`JobPool.claim` for a foreground job: background ones give their blocks up for it."""
        while not self.pool.claim(job, spare_blocks):
            owners = [j for j in self.background if self.ledger.held(j.request_id)]
            if not owners:
                return False
            self.preempt(max(owners, key=lambda owner: owner.order))
        return True

    def join_batch(self, at_s: float, *, fresh: bool) -> list[Started]:
        """Lets held jobs decode: those that had begun before, and if `fresh` the others, which are
        named."""
        started: list[Started] = []
        if not self.held:
            return started
        for job in list(self.held.values()):
            if job.decode_start_s is None and not fresh:
                continue
            if begun := self.start(job, at_s):
                started.append(begun)
        return started

    def start(self, job: Job, at_s: float) -> Started | None:
        """A held job decodes from now on; None: it had decoded before."""
        del self.held[job.request_id]
        self.batch.join(job)
        if job.decode_start_s is not None:
            return None
        job.decode_start_s = at_s
        return Started(job.request_id, self.batch.steps)

    def pause(self, job: Job) -> None:
        """A foreground job that decodes stops for now and keeps its blocks."""
        self.batch.leave(job)
        self.held[job.request_id] = job

    def grow_batch(self, evict: Callable[[], object] | None = None) -> None:
        """Gives each decode the block that its next token needs; `evict` preempts somebody for it:
        the youngest if not given, of background jobs first."""
        evict = evict or self.preempt_youngest
        for job in self.batch.growing():
            while job.base_step is not None:
                if self.pool.grow(job, job.known + self.batch.gained(job)):
                    break
                evict()

    def preempt_youngest(self) -> None:
        """Takes the blocks of the job that came last, of background jobs first."""
        held, moving = self.ledger.held, self.moving
        owners = (
            j for j in self.jobs.values() if held(j.request_id) and j.request_id not in moving
        )
        self.preempt(max(owners, key=lambda job: (job.background, job.order)))

    def preempt(self, victim: Job) -> None:
        """Takes a job's blocks; what they held is computed again later."""
        withdrawn = self._withdraw(victim)
        self.pool.free(victim)
        victim.num_preempted += 1
        self.num_preempted += 1
        self._rules.released(victim)
        if not withdrawn:
            return
        if victim.background:
            self.background.waiting.insert(0, victim)
        else:
            self._rules.requeue(victim)

    def members(self, at_s: float, granted: Container[str]) -> tuple[RequestProgress, ...]:
        """All jobs, in order of arrival; `granted` are those that are still to be prefilled."""
        return tuple(
            job.progress(
                at_s,
                self.batch.gained(job),
                granted=job.background or job.tokens_out > 0 or job.request_id in granted,
            )
            for job in self.jobs.values()
        )

    def occupancy(self) -> KvOccupancy:
        """KV blocks; reserved is what live requests are predicted to grow by."""
        kv = self.pool.occupancy()
        held = sum(self.ledger.held(job.request_id) for job in self.background)
        if not held:
            return kv
        return msgspec.structs.replace(kv, background_blocks=min(held, kv.used_blocks))

    def check_invariants(self) -> None:
        """Raises InvariantError when blocks or lists disagree."""
        self.ledger.check_invariants()
        self.batch.check_invariants()
        self.pool.check_invariants(self.jobs.values())
        lists = [*self.waiting, *self.held.values(), *self.moving.values(), *self.background]
        lists += (job for job in self.batch if not job.background)
        if len({job.request_id for job in lists}) != len(lists):
            raise InvariantError("a request is in two lists of the instance scheduler")
        if any(self.jobs.get(job.request_id) is not job for job in lists):
            raise InvariantError("a forgotten request is still scheduled")
        riders = {job.request_id for job in self.batch if job.background}
        if riders != self.background.riding.keys():
            raise InvariantError("who rides in the decode batch is miscounted")
        if not self.jobs and self.ledger.num_free != self.ledger.num_blocks:
            raise InvariantError("blocks are owned though nothing runs")

    def _queue_of(self, job: Job) -> list[Job]:
        return self.background.waiting if job.background else self.waiting

    def _withdraw(self, job: Job) -> bool:
        """Takes a prefilled job out of its list; False: it is not prefilled."""
        if job.base_step is not None:
            self.batch.leave(job)
            self.background.riding.pop(job.request_id, None)
            return True
        if job.background:
            return self.background.withdraw(job)
        stands_in = self.held if job.request_id in self.held else self.moving
        return stands_in.pop(job.request_id, None) is not None
