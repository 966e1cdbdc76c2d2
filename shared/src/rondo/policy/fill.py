"""Fills a step of an instance: chunks of waiting prompts, and the sequences that decode."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Protocol

from rondo.policy.board import JobBoard
from rondo.policy.decode_batch import DecodeBatch
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job, PlanItem, StepPlan
from rondo.types import Batching, BatchKind, Phase


class Prompts(Protocol):
    """The part of an `InstancePolicy` that fills a step."""

    def prompts(self) -> Iterable[Job]:
        """Waiting prompts in the order in which the step takes them."""
        ...

    def admit(self, job: Job) -> bool:
        """Gives a prompt its blocks; False: there are not enough, and no other gets any."""
        ...


def take_chunks(board: JobBoard, policy: Prompts, budget: int, slots: int) -> list[PlanItem]:
    """Chunks of the first waiting prompts, which get their blocks with it.

    Args:
        budget: prompt tokens that the step may take. slots: prompts that it may take.
    """
    ledger = board.ledger
    chunks: list[PlanItem] = []
    if budget <= 0 or slots <= 0:
        return chunks
    for job in policy.prompts():
        if not policy.admit(job):
            break
        count = min(job.known - job.cached, budget)
        budget -= count
        chunks.append(PlanItem(job.request_id, job.cached, count, ledger.table(job.request_id)))
        if budget <= 0 or len(chunks) >= slots:
            break
    return chunks


def step_budget(batching: Batching, max_prefill_tokens: int, num_decodes: int) -> int:
    """Prompt tokens that the next step may take."""
    limit = batching.tokens or max_prefill_tokens
    if batching.kind is BatchKind.CHUNKED:
        limit -= num_decodes
    return min(limit, max_prefill_tokens)


def with_decodes(
    batch: DecodeBatch, ledger: KvLedger, phase: Phase, chunks: list[PlanItem]
) -> StepPlan:
    """A step of these chunks and all that decode in a batch."""
    decodes = partial(_list_decodes, batch, ledger)
    return StepPlan(phase, chunks, len(batch), batch.context_tokens, decodes)


def _list_decodes(batch: DecodeBatch, ledger: KvLedger) -> list[PlanItem]:
    """One token for each sequence that decodes."""
    table, gained = ledger.table, batch.gained
    return [
        PlanItem(job.request_id, job.cached + gained(job), 1, table(job.request_id))
        for job in batch
    ]
