"""Fills a step of an instance: chunks of waiting prompts, and the sequences that decode."""

from __future__ import annotations

from rondo.policy.board import JobBoard
from rondo.policy.plan import PlanItem


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
        if not board.pool.claim(job, spare_blocks=board.num_prefilled):
            break
        count = min(job.known - job.cached, budget)
        budget -= count
        chunks.append(PlanItem(job.request_id, job.cached, count, ledger.table(job.request_id)))
    return chunks


def list_decodes(board: JobBoard) -> list[PlanItem]:
    """One token for each sequence that decodes."""
    table, gained = board.ledger.table, board.batch.gained
    return [
        PlanItem(job.request_id, job.cached + gained(job), 1, table(job.request_id))
        for job in board.batch
    ]
