"""Who holds which KV blocks, and how many more the live requests are expected to want."""

from __future__ import annotations

from collections.abc import Iterable

from rondo.errors import InvariantError
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job
from rondo.prefix import extend_names
from rondo.types import FoundPrefix, KvOccupancy


class JobPool:
    """Grows and frees the blocks of jobs; keeps the sum of their expected growth up to date."""

    def __init__(self, ledger: KvLedger) -> None:
        self.ledger = ledger
        self._reserved_blocks = 0
        self.shared_tokens = 0
        """Tokens so far that were not prefilled because their KV was there."""
        self._found: list[FoundPrefix] = []

    def enter(self, job: Job) -> None:
        """A request came; it owns nothing yet."""
        size = self.ledger.block_size
        self._reserved_blocks += job.final_blocks(size)
        if blocks := self.ledger.found(job.shareable(size)):
            self._found.append(FoundPrefix(job.request_id, blocks * size))

    def take_found(self) -> tuple[FoundPrefix, ...]:
        """Prompts since the last call whose first tokens' KV was there when they came."""
        found, self._found = tuple(self._found), []
        return found

    def grow(self, job: Job, num_tokens: int) -> bool:
        """Makes the job's table cover `num_tokens` tokens, or changes nothing: False."""
        before = self._expected(job)
        if not self.ledger.grow(job.request_id, num_tokens):
            return False
        self._reserved_blocks += self._expected(job) - before
        return True

    def claim(self, job: Job, spare_blocks: int) -> bool:
        """Gives a job blocks for all its tokens, if `spare_blocks` stay free beside them.

        A job that has none begins with those that hold its first tokens already. False: nothing
        was changed.
        """
        ledger = self.ledger
        fresh = ledger.held(job.request_id) == 0
        if fresh:
            self._share(job)
        missing = ledger.missing(job.request_id, job.known)
        if missing and missing + spare_blocks > ledger.num_free:
            if fresh:
                self.free(job)
            return False
        self.grow(job, job.known)
        if fresh:
            self.shared_tokens += job.cached
        return True

    def computed(self, job: Job, num_tokens: int) -> None:
        """The KV of the job's first `num_tokens` tokens is in its blocks."""
        size = self.ledger.block_size
        first = job.cached // size
        job.cached = num_tokens
        if names := job.block_names[first : num_tokens // size]:
            self.ledger.name(job.request_id, first, names)

    def free(self, job: Job) -> None:
        """Takes the job's blocks back; it stays and will want them again."""
        self._name_answer(job)
        before = self._expected(job)
        self.ledger.release(job.request_id)
        job.cached = 0
        self._reserved_blocks += self._expected(job) - before

    def exit(self, job: Job) -> None:
        """The request is gone, with its blocks."""
        self._name_answer(job)
        self._reserved_blocks -= self._expected(job)
        self.ledger.release(job.request_id)

    def occupancy(self) -> KvOccupancy:
        """KV blocks; reserved is what live requests are predicted to grow by."""
        return self.ledger.occupancy(self._reserved_blocks)

    def check_invariants(self, jobs: Iterable[Job]) -> None:
        """Raises InvariantError when the reservation is not the sum over `jobs`."""
        if self._reserved_blocks != sum(self._expected(job) for job in jobs):
            raise InvariantError("KV pool: the reservation disagrees with the requests")

    def _name_answer(self, job: Job) -> None:
        """Names the blocks that the answer filled, when they are let go: not at each step."""
        first, size = len(job.block_names), self.ledger.block_size
        count = job.cached // size - first
        if job.tail is None or count <= 0:
            return
        names = list(job.block_names)
        extend_names(names, job.tail, size, count)
        job.block_names = names
        del job.tail[: count * size]
        self.ledger.name(job.request_id, first, names[first:])

    def _share(self, job: Job) -> None:
        before = self._expected(job)
        count = self.ledger.share(job.request_id, job.shareable(self.ledger.block_size))
        job.cached = count * self.ledger.block_size
        self._reserved_blocks += self._expected(job) - before

    def _expected(self, job: Job) -> int:
        """Blocks that the job is still expected to take."""
        held = self.ledger.held(job.request_id)
        return max(0, job.final_blocks(self.ledger.block_size) - held)
