"""The order of an offline job's prompts: long answers early enough that they do not end it alone.

At the end of a job the batches run empty, and the longest answer that was begun late sets how long
that takes. Beginning with all long answers is no way out: many of them together fill the memory, so
that fewer run at once. So the long are spread over a shorter part of the job than the short: a
request at place i, with a predicted answer of L tokens, moves to i (1 - (L / (spread * mean))^4).
"""

from __future__ import annotations

from collections.abc import Mapping

from rondo.policy.plan import Job

#: No request moves forward by more than this share of its place.
MOST = 0.95
#: Only answers that are several times the mean are to move far.
POWER = 4


def spread_out(waiting: Mapping[str, Job], spread: float) -> dict[str, Job]:
    """The waiting requests in their new order; `spread` is in mean predicted lengths.

    Those that were preempted stay in front.
    """
    again = [job for job in waiting.values() if job.num_preempted]
    fresh = [job for job in waiting.values() if not job.num_preempted]
    mean = sum(job.predicted_tokens for job in fresh) / max(1, len(fresh))
    scale = max(1.0, spread * mean)
    places = {
        job.request_id: place * (1 - min(MOST, (job.predicted_tokens / scale) ** POWER))
        for place, job in enumerate(fresh)
    }
    fresh.sort(key=lambda job: places[job.request_id])
    return {job.request_id: job for job in (*again, *fresh)}
