"""Policies that choose among waiting prompts, and shortest-first, the simplest of them."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator

from rondo.policy.econoserve.order import KEYS, Elders
from rondo.policy.instance_policy import InstancePolicy
from rondo.policy.plan import Job
from rondo.types import Started


class OrderedPolicy(InstancePolicy):
    """Sorts waiting prompts by a key; blocks are still given on demand.

    A prompt that has begun is finished before another begins.

    Args:
        order: a name in `KEYS`. elder_every, patience_s: see `Elders`.
    """

    def __init__(self, order: str, elder_every: int, patience_s: float) -> None:
        self._key = KEYS[order]
        self._elders = Elders(elder_every, patience_s)
        self._elder: Job | None = None
        self._now_s = 0.0
        self._begun: dict[str, Job] = {}  # prompts of `waiting` that have blocks

    def queue(self, job: Job) -> None:
        """See `InstancePolicy`."""
        insort(self.board.waiting, job, key=self._key)
        if self.board.ledger.held(job.request_id):
            self._begun[job.request_id] = job

    def requeue(self, job: Job) -> None:
        """See `InstancePolicy`."""
        insort(self.board.waiting, job, key=self._key)

    def withdraw(self, request_ids: set[str]) -> None:
        """See `InstancePolicy`."""
        super().withdraw(request_ids)
        self._begun = {r: job for r, job in self._begun.items() if r not in request_ids}

    def prompts(self) -> Iterator[Job]:
        """See `InstancePolicy`."""
        yield from list(self._begun.values())
        while job := self._choose():
            yield job

    def admit(self, job: Job) -> bool:
        """See `InstancePolicy`."""
        if not super().admit(job):
            return False
        self._begin(job)
        return True

    def prefilled(self, job: Job) -> None:
        """See `InstancePolicy`."""
        self._begun.pop(job.request_id, None)

    def released(self, job: Job) -> None:
        """See `InstancePolicy`."""
        self._begun.pop(job.request_id, None)

    def join(self, at_s: float, *, fresh: bool) -> list[Started]:
        """See `InstancePolicy`."""
        self._now_s = at_s
        return super().join(at_s, fresh=fresh)

    def _begin(self, job: Job) -> None:
        if job.request_id not in self._begun:
            self._elders.admitted(job, self._elder)
            self._begun[job.request_id] = job

    def _fresh(self) -> Iterator[Job]:
        """Prompts that have not begun, in order."""
        return (job for job in self.board.waiting if job.request_id not in self._begun)

    def _choose(self) -> Job | None:
        self._elder = self._elders.due(self._fresh(), self._now_s)
        return self._elder or next(self._fresh(), None)


class ShortestFirst(OrderedPolicy):
    """Block growth, shortest predicted answer first."""

    name = "shortest-first"

    def __init__(self, elder_every: int, patience_s: float) -> None:
        super().__init__("shortest", elder_every, patience_s)
