"""The sequences that decode together, counted for all at once."""

from __future__ import annotations

from collections.abc import Iterator

from rondo.errors import InvariantError
from rondo.policy.plan import Job


class DecodeBatch:
    """Counts for all its jobs at once.

    A job that joined at step b has got `steps - b` tokens since. When it needs its next KV block,
    and when it reaches `max_tokens`, follows from that, so both are looked up by step number.
    """

    def __init__(self, block_size: int) -> None:
        self.steps = 0
        self.context_tokens = 0
        """Cached tokens of all jobs, summed."""
        self._jobs: dict[str, Job] = {}
        self._growers: list[dict[str, Job]] = [{} for _ in range(block_size)]
        self._ends: dict[int, list[Job]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def join(self, job: Job) -> None:
        """Takes a job whose newest token is not cached yet."""
        job.base_step = self.steps
        job.end_step = self.steps + job.max_tokens - job.tokens_out
        self._jobs[job.request_id] = job
        self.context_tokens += job.cached
        self._grower(job)[job.request_id] = job
        self._ends.setdefault(job.end_step, []).append(job)

    def leave(self, job: Job) -> None:
        """Takes a job out and brings its counters up to date."""
        del self._jobs[job.request_id]
        del self._grower(job)[job.request_id]
        gained = self.gained(job)
        job.base_step = None
        job.tokens_out += gained
        job.cached += gained
        self.context_tokens -= job.cached

    def gained(self, job: Job) -> int:
        """Tokens since the job joined; 0 outside the batch."""
        return 0 if job.base_step is None else self.steps - job.base_step

    def growing(self) -> list[Job]:
        """Jobs whose next token needs a new block, oldest first."""
        bucket = self._growers[self.steps % len(self._growers)]
        return sorted(bucket.values(), key=lambda job: job.order) if bucket else []

    def advance(self) -> list[Job]:
        """One step is done; the jobs that reached `max_tokens` with it, still in the batch."""
        self.steps += 1
        self.context_tokens += len(self._jobs)
        ends = self._ends.pop(self.steps, None)
        if not ends:
            return []
        # A job that left and came back may be listed twice, or at a step that is no longer its end.
        unique = {job.request_id: job for job in ends}.values()
        return [j for j in unique if j.end_step == self.steps and j.base_step is not None]

    def check_invariants(self) -> None:
        """Raises InvariantError when the counters disagree."""
        context = sum(job.cached + self.gained(job) for job in self._jobs.values())
        growers = sum(len(bucket) for bucket in self._growers)
        if context != self.context_tokens or growers != len(self._jobs):
            raise InvariantError("decode batch: counters disagree with its jobs")

    def _grower(self, job: Job) -> dict[str, Job]:
        assert job.base_step is not None
        return self._growers[(job.base_step - job.cached) % len(self._growers)]
