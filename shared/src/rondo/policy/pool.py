"""Who holds which KV blocks, and how many more the live requests are expected to want."""

from __future__ import annotations

from collections.abc import Iterable

from rondo.errors import InvariantError
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job
from rondo.types import KvOccupancy


class JobPool:
    """Grows and frees the blocks of jobs; keeps the sum of their expected growth up to date."""

    def __init__(self, ledger: KvLedger) -> None:
        self.ledger = ledger
        self._reserved_blocks = 0

    def enter(self, job: Job) -> None:
        """A request came; it owns nothing yet."""
        self._reserved_blocks += job.final_blocks(self.ledger.block_size)

    def grow(self, job: Job, num_tokens: int) -> bool:
        """Makes the job's table cover `num_tokens` tokens, or changes nothing: False."""
        before = self._expected(job)
        if not self.ledger.grow(job.request_id, num_tokens):
            return False
        self._reserved_blocks += self._expected(job) - before
        return True

    def free(self, job: Job) -> None:
        """Takes the job's blocks back; it stays and will want them again."""
        before = self._expected(job)
        self.ledger.release(job.request_id)
        job.cached = 0
        self._reserved_blocks += self._expected(job) - before

    def exit(self, job: Job) -> None:
        """The request is gone, with its blocks."""
        self._reserved_blocks -= self._expected(job)
        self.ledger.release(job.request_id)

    def occupancy(self) -> KvOccupancy:
        """KV blocks; reserved is what live requests are predicted to grow by."""
        return self.ledger.occupancy(self._reserved_blocks)

    def check_invariants(self, jobs: Iterable[Job]) -> None:
        """Raises InvariantError when the reservation is not the sum over `jobs`."""
        if self._reserved_blocks != sum(self._expected(job) for job in jobs):
            raise InvariantError("KV pool: the reservation disagrees with the requests")

    def _expected(self, job: Job) -> int:
        """Blocks that the job is still expected to take."""
        held = self.ledger.held(job.request_id)
        return max(0, job.final_blocks(self.ledger.block_size) - held)
