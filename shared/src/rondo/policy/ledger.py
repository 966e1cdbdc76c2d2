"""KV ledger: which block belongs to whom. Every block is free or owned by exactly one request."""

from __future__ import annotations

from collections.abc import Sequence

from rondo.errors import InvariantError
from rondo.types import KvOccupancy


def blocks_for(num_tokens: int, block_size: int) -> int:
    """Blocks that hold `num_tokens` tokens."""
    return -(-num_tokens // block_size)


class KvLedger:
    """Owns `num_blocks` blocks of `block_size` tokens; hands them out and takes them back."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"no KV pool of {num_blocks} blocks of {block_size} tokens")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))
        self._tables: dict[str, list[int]] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody owns."""
        return len(self._free)

    def held(self, request_id: str) -> int:
        """Blocks that the request owns."""
        return len(self._tables.get(request_id, ()))

    def missing(self, request_id: str, num_tokens: int) -> int:
        """Blocks that the request lacks to hold `num_tokens` tokens."""
        return max(0, blocks_for(num_tokens, self.block_size) - self.held(request_id))

    def grow(self, request_id: str, num_tokens: int) -> bool:
        """Makes the table cover `num_tokens` tokens, or changes nothing and returns False."""
        missing = self.missing(request_id, num_tokens)
        if missing > len(self._free):
            return False
        if missing:
            table = self._tables.setdefault(request_id, [])
            table.extend(reversed(self._free[-missing:]))
            del self._free[-missing:]
        return True

    def table(self, request_id: str) -> Sequence[int]:
        """The request's blocks in order of its tokens: a live view, valid until the next change."""
        return self._tables.get(request_id, [])

    def release(self, request_id: str) -> None:
        """Takes all blocks back; a request without any is fine."""
        self._free.extend(reversed(self._tables.pop(request_id, [])))

    def occupancy(self, reserved_blocks: int) -> KvOccupancy:
        """The pool's state, with what the caller expects admitted requests to grow by."""
        return KvOccupancy(
            total_blocks=self.num_blocks,
            used_blocks=self.num_blocks - len(self._free),
            free_blocks=len(self._free),
            reserved_blocks=reserved_blocks,
        )

    def check_invariants(self) -> None:
        """Raises InvariantError unless each block is in exactly one place."""
        seen = sorted([*self._free, *(b for table in self._tables.values() for b in table)])
        if seen != list(range(self.num_blocks)):
            raise InvariantError("KV ledger: a block is lost or owned twice")
