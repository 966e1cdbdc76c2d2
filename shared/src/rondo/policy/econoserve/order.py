"""Which waiting prompt is next: keys to sort by, and a turn for the oldest now and then."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import groupby

from rondo.policy.plan import Job

Key = Callable[[Job], tuple[float, ...]]

#: Deadlines within such a window are one class in the order of EconoServe's paper.
DEADLINE_CLASS_S = 10.0


def answer_left(job: Job) -> int:
    """Tokens that its answer is predicted to have still, at least one."""
    return max(1, min(job.predicted_tokens, job.max_tokens) - job.tokens_out)


def shortest(job: Job) -> tuple[float, ...]:
    """Shortest predicted answer first."""
    return answer_left(job), job.order


def weighted(job: Job) -> tuple[float, ...]:
    """Smith's rule: first what brings most for the KV that it takes and the time it takes it for.

    A request weighs 1 / answer in the mean latency per token; it takes KV for its prompt and, on
    average, half its answer, for as many steps as its answer has tokens.
    """
    left = answer_left(job)
    answer = job.tokens_out + left
    return left * answer * (job.known + left / 2), job.order


def longest(job: Job) -> tuple[float, ...]:
    """The paper's order: by class of deadlines, longest prompt and answer first."""
    deadline_s = job.arrival_s + job.slo.ttft_s
    return deadline_s // DEADLINE_CLASS_S, -(job.known + answer_left(job)), job.order


def first_come(job: Job) -> tuple[float, ...]:
    """In order of arrival."""
    return (job.order,)


KEYS: dict[str, Key] = {
    "weighted": weighted,
    "shortest": shortest,
    "longest-fit": longest,
    "first-come": first_come,
}


def longest_that_fits(prompts: Iterable[Job], fits: Callable[[Job], bool]) -> Job | None:
    """Of prompts in the order `longest`: of the first class in which any fits, the longest one, by
    binary search."""
    for _, same in groupby(prompts, key=lambda job: longest(job)[0]):
        jobs = list(same)
        index = bisect_left(jobs, True, key=fits)
        if index < len(jobs):
            return jobs[index]
    return None


class Elders:
    """Sees to it that nobody waits for ever.

    Once the oldest prompt has waited `patience_s` for each token of its predicted answer, one of
    `every` admissions is its. So one that n others were before when it came begins at the latest
    with the (n + 1) · every-th admission after the longest patience of these.
    """

    def __init__(self, every: int, patience_s: float) -> None:
        self._every = every
        self._patience_s = patience_s
        self._since = 0

    def due(self, waiting: Iterable[Job], now_s: float) -> Job | None:
        """The prompt whose turn it is whatever the order, if it is anybody's."""
        if self._since < self._every - 1:
            return None
        oldest = min(waiting, key=lambda job: job.order, default=None)
        if oldest is None:
            return None
        patience_s = self._patience_s * answer_left(oldest)
        return oldest if now_s - oldest.arrival_s >= patience_s else None

    def admitted(self, job: Job, due: Job | None) -> None:
        """A prompt begins, which may be the one that was `due`."""
        self._since = 0 if job is due else self._since + 1
