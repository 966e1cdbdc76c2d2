"""Follows who uses which KV block, from the plans alone, and finds a scheduler's mistakes."""

from __future__ import annotations

from rondo.policy.plan import PlanItem, StepPlan
from rondo_worker.engines.sequences import SequenceTable


class KvShadow:
    """The block tables of all live requests, as the plans so far imply them.

    A preempted request loses its blocks without a word to the engine. So a block that turns up in
    another request's table counts as taken away, and with it everything the loser had cached: if
    the loser ever goes on without being recomputed from token 0, `SequenceTable.resolve` refuses.

    Args:
        num_blocks: size of the pool. sequences: where the losers' caches are marked as gone.
    """

    def __init__(self, num_blocks: int, sequences: SequenceTable) -> None:
        self._sequences = sequences
        self._owner: list[str | None] = [None] * num_blocks
        self._tables: dict[str, list[int]] = {}

    def release(self, request_id: str) -> None:
        """A request is gone or starts over; its blocks are nobody's."""
        for block in self._tables.pop(request_id, ()):
            self._owner[block] = None

    def take(self, plan: StepPlan) -> str | None:
        """Follows a plan; returns what is wrong with it, or None."""
        items = plan.items
        for item in items:
            if item.start == 0:
                self.release(item.request_id)
        planned = {item.request_id for item in items}
        if len(planned) != len(items):
            return "a request is in the plan twice"
        for item in items:
            problem = self._follow(item, planned)
            if problem:
                return f"request {item.request_id}: {problem}"
        return None

    def _follow(self, item: PlanItem, planned: set[str]) -> str | None:
        table = self._tables.setdefault(item.request_id, [])
        if list(item.blocks[: len(table)]) != table:
            return "its block table changed under its cached tokens"
        for block in item.blocks[len(table) :]:
            if not 0 <= block < len(self._owner):
                return f"KV block {block} of a pool of {len(self._owner)}"
            owner = self._owner[block]
            if owner in planned:
                return f"KV block {block} belongs to {owner} in the same step"
            if owner is not None:
                self._evict(owner)
            self._owner[block] = item.request_id
            table.append(block)
        return None

    def _evict(self, request_id: str) -> None:
        self.release(request_id)
        sequence = self._sequences.find(request_id)
        if sequence is not None:
            sequence.cached = 0
