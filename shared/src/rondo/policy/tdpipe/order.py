"""The order of an offline job's prompts: no long answer begins so late that it ends the job alone.

At the end of a job the batches run empty, and the longest answer that was begun late sets how long
that takes. Beginning with the long answers is no way out: many of them together fill the memory, so
that fewer run at once. So requests go first come, first served, but the longest that waits goes
first as soon as its answer takes more rounds than all that is left, and `tail` mean answers more:
its latest start. In a round every request that decodes gets one token, so an answer takes as many
rounds as it has tokens; what is left takes what its tokens do at `Pace`.

The tail is for errors of predictions. Answers that are much longer than predicted end the job
alone, whatever the order; with no tail the last requests are those with the shortest predictions,
and most of them, so that more such answers begin late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rondo.policy.plan import Job


@dataclass(frozen=True, slots=True)
class Pace:
    """What a pipeline can do in a round: tokens that pass it, and cached tokens that it holds."""

    tokens: float
    cached_tokens: float


def in_time(
    waiting: Mapping[str, Job], expect: Callable[[Job], int], pace: Pace, tail: float
) -> dict[str, Job]:
    """The waiting requests in their new order; `expect` tells the tokens of an answer, `tail` is in
    mean answers.

    Those that were preempted stay in front, and background ones behind all others.
    """
    jobs = list(waiting.values())
    again = [job for job in jobs if job.num_preempted]
    fresh = [job for job in jobs if not job.num_preempted and not job.background]
    behind = [job for job in jobs if not job.num_preempted and job.background]
    ordered = [*again]
    for group in (fresh, behind):
        ordered += _latest_starts(group, [expect(job) for job in group], pace, tail)
    return {job.request_id: job for job in ordered}


def _latest_starts(
    jobs: Sequence[Job], answers: Sequence[int], pace: Pace, tail: float
) -> list[Job]:
    lengths = {job.request_id: answer for job, answer in zip(jobs, answers, strict=True)}
    work = {job.request_id: _work(job.prompt_tokens, lengths[job.request_id]) for job in jobs}
    tail_tokens = tail * sum(answers) / max(1, len(answers))
    tokens = sum(each[0] for each in work.values())
    cached = sum(each[1] for each in work.values())
    first = deque(jobs)
    longest = deque(sorted(jobs, key=lambda job: -lengths[job.request_id]))
    ordered: dict[str, Job] = {}
    while len(ordered) < len(jobs):
        for queue in (first, longest):
            while queue[0].request_id in ordered:
                queue.popleft()
        rounds = max(tokens / pace.tokens, cached / pace.cached_tokens)
        is_due = lengths[longest[0].request_id] - tail_tokens >= rounds
        queue = longest if is_due else first
        job = queue.popleft()
        ordered[job.request_id] = job
        tokens -= work[job.request_id][0]
        cached -= work[job.request_id][1]
    return list(ordered.values())


def _work(prompt: int, answer: int) -> tuple[int, float]:
    """Tokens that pass the pipeline, and cached tokens summed over the answer's rounds."""
    return prompt + answer, answer * (prompt + answer / 2)
