"""Background requests on an instance: where each stands while others have the right of way."""

from __future__ import annotations

from collections.abc import Iterator

from rondo.policy.plan import Job


class BackgroundJobs:
    """Three lists, of which a job is in one.

    `waiting` has prompts to compute, first those that gave their blocks up; `aside` has prefilled
    ones that do not decode now and keep their KV; `riding` those in the decode batch.
    """

    def __init__(self) -> None:
        self.waiting: list[Job] = []
        self.aside: dict[str, Job] = {}
        self.riding: dict[str, Job] = {}

    def __len__(self) -> int:
        return len(self.waiting) + self.num_prefilled

    def __iter__(self) -> Iterator[Job]:
        yield from self.waiting
        yield from self.aside.values()
        yield from self.riding.values()

    @property
    def num_prefilled(self) -> int:
        """Jobs whose prompt is computed."""
        return len(self.aside) + len(self.riding)

    def prefilled(self) -> list[Job]:
        """Those whose prompt is computed, oldest first."""
        jobs = [*self.aside.values(), *self.riding.values()]
        return sorted(jobs, key=lambda job: job.order)

    def computed(self, job: Job) -> None:
        """The prompt is computed."""
        self.waiting.remove(job)
        self.aside[job.request_id] = job

    def withdraw(self, job: Job) -> bool:
        """Takes a job out that was set aside; False: it is none."""
        return self.aside.pop(job.request_id, None) is not None
