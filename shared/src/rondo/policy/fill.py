"""Fills a step of an instance: chunks of waiting prompts, and the sequences that decode."""

from __future__ import annotations

from functools import partial

from rondo.policy.board import JobBoard
from rondo.policy.plan import PlanItem, StepPlan
from rondo.types import Batching, BatchKind, Phase


def take_chunks(board: JobBoard, budget: int, slots: int) -> list[PlanItem]:
    """Chunks of the first waiting prompts, which get their blocks with it.

    Args:
        budget: prompt tokens that the step may take. slots: prompts that it may take.
    """
    ledger = board.ledger
    chunks: list[PlanItem] = []
    for job in board.waiting:
        if budget <= 0 or len(chunks) >= slots:
            break
        # One free block for each running request keeps them from preempting this one at once.
        if not board.claim(job, spare_blocks=board.num_foreground):
            break
        count = min(job.known - job.cached, budget)
        budget -= count
        chunks.append(PlanItem(job.request_id, job.cached, count, ledger.table(job.request_id)))
    return chunks


def step_budget(batching: Batching, max_prefill_tokens: int, num_decodes: int) -> int:
    """Prompt tokens that the next step may take."""
    limit = batching.tokens or max_prefill_tokens
    if batching.kind is BatchKind.CHUNKED:
        limit -= num_decodes
    return min(limit, max_prefill_tokens)


def with_decodes(board: JobBoard, phase: Phase, chunks: list[PlanItem]) -> StepPlan:
    """A step of these chunks and all that decode."""
    batch, decodes = board.batch, partial(list_decodes, board)
    return StepPlan(phase, chunks, len(batch), batch.context_tokens, decodes)


def list_decodes(board: JobBoard) -> list[PlanItem]:
    """One token for each sequence that decodes."""
    table, gained = board.ledger.table, board.batch.gained
    return [
        PlanItem(job.request_id, job.cached + gained(job), 1, table(job.request_id))
        for job in board.batch
    ]
