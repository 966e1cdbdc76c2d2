"""Follows who uses which KV block, from the plans alone, and finds a scheduler's mistakes."""

from __future__ import annotations

from dataclasses import dataclass, field

from rondo.policy.plan import PlanItem, StepPlan
from rondo.prefix import extend_names
from rondo_worker.engines.sequences import LiveSequence, SequenceTable


@dataclass(slots=True)
class _Table:
    """A request's blocks, and the names of its full blocks (`rondo.prefix`) as far as known."""

    blocks: list[int] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)


class KvShadow:
    """The block tables of all live requests, as the plans so far imply them.

    A preempted request loses its blocks without a word to the engine. So a block that another
    request writes to counts as taken away, and with it everything the loser had cached: if the
    loser ever goes on without being recomputed, `SequenceTable.resolve` refuses. Blocks that a
    request starts from without having computed them must hold just its tokens.

    Args:
        num_blocks: size of the pool. block_size: tokens in a block. sequences: where the losers'
        caches are marked as gone.
    """

    def __init__(self, num_blocks: int, block_size: int, sequences: SequenceTable) -> None:
        self._sequences = sequences
        self._size = block_size
        self._users: list[dict[str, None]] = [{} for _ in range(num_blocks)]
        self._content: list[bytes | None] = [None] * num_blocks  # names of what full blocks hold
        self._tables: dict[str, _Table] = {}

    def release(self, request_id: str) -> None:
        """A request is gone or starts over; what its blocks hold stays."""
        table = self._tables.pop(request_id, None)
        for block in table.blocks if table else ():
            self._users[block].pop(request_id, None)

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
            sequence = self._sequences.find(item.request_id)
            problem = self._follow(item, sequence, planned) if sequence else "is not known"
            if problem:
                return f"request {item.request_id}: {problem}"
        return None

    def _follow(self, item: PlanItem, sequence: LiveSequence, planned: set[str]) -> str | None:
        table = self._tables.setdefault(item.request_id, _Table())
        if list(item.blocks[: len(table.blocks)]) != table.blocks:
            if item.start % self._size:
                return "its block table changed under its cached tokens"
            self.release(item.request_id)  # preempted, and starts from a prefix that is there
            table = self._tables.setdefault(item.request_id, _Table())
        end = item.start + item.num_tokens
        named = len(table.names)
        if fresh := max(0, end // self._size - named):
            unnamed = sequence.tokens[named * self._size : end]
            extend_names(table.names, unnamed, self._size, fresh)
        for index in range(len(table.blocks), len(item.blocks)):
            block = item.blocks[index]
            if not 0 <= block < len(self._users):
                return f"KV block {block} of a pool of {len(self._users)}"
            shared = (index + 1) * self._size <= item.start
            if shared and self._content[block] != table.names[index]:
                return f"KV block {block} does not hold its tokens from {index * self._size} on"
            if not shared and (problem := self._write(block, planned)):
                return problem
            self._users[block][item.request_id] = None
            table.blocks.append(block)
        for index in range(item.start // self._size, end // self._size):
            self._content[table.blocks[index]] = table.names[index]
        return None

    def _write(self, block: int, planned: set[str]) -> str | None:
        """A request is about to write to a block it did not have."""
        for user in list(self._users[block]):
            if user in planned:
                return f"KV block {block} belongs to {user} in the same step"
            self.release(user)
            if loser := self._sequences.find(user):
                loser.cached = 0
        self._content[block] = None
        return None
