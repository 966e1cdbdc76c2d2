"""Whose answer ends with a step, for engines that make no tokens."""

from __future__ import annotations

from collections.abc import Callable

from rondo.policy.board import JobBoard
from rondo.policy.plan import StepPlan


def answers_ending(
    board: JobBoard, plan: StepPlan, answer_tokens: Callable[[str], int]
) -> list[str]:
    """Requests whose last token a planned step brings, before it is taken in.

    Args:
        answer_tokens: how long the answer of a request of that id turns out to be.
    """
    gained = board.batch.gained
    ends = [
        job.request_id
        for job in (board.batch if plan.num_decodes else ())
        if job.tokens_out + gained(job) + 1 >= answer_tokens(job.request_id)
    ]
    for chunk in plan.chunks:
        job = board.jobs[chunk.request_id]
        whole = chunk.start + chunk.num_tokens == job.known
        if whole and job.tokens_out + 1 >= answer_tokens(job.request_id):
            ends.append(job.request_id)
    return ends
