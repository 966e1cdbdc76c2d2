"""KV ledger: which block belongs to whom.

Every block is free, owned, or kept: kept ones belong to nobody and still hold the tokens that their
name stands for, until a block is wanted and none is free; then the one that was let go first goes.
Owned blocks with a name may have several owners, who only read them (prefix caching, as in vLLM:
arXiv 2309.06180, section 4.4).
"""

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
        self._kept: dict[int, None] = {}  # let go first, first
        self._tables: dict[str, list[int]] = {}
        self._owners: dict[int, int] = {}  # of blocks that have a name
        self._names: dict[int, bytes] = {}
        self._named: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody owns."""
        return len(self._free) + len(self._kept)

    def held(self, request_id: str) -> int:
        """Blocks that the request owns, alone or with others."""
        return len(self._tables.get(request_id, ()))

    def missing(self, request_id: str, num_tokens: int) -> int:
        """Blocks that the request lacks to hold `num_tokens` tokens."""
        return max(0, blocks_for(num_tokens, self.block_size) - self.held(request_id))

    def grow(self, request_id: str, num_tokens: int) -> bool:
        """Makes the table cover `num_tokens` tokens, or changes nothing and returns False."""
        missing = self.missing(request_id, num_tokens)
        if missing > self.num_free:
            return False
        if missing:
            while len(self._free) < missing:
                self._forget_oldest()
            table = self._tables.setdefault(request_id, [])
            table.extend(reversed(self._free[-missing:]))
            del self._free[-missing:]
        return True

    def table(self, request_id: str) -> Sequence[int]:
        """The request's blocks in order of its tokens: a live view, valid until the next change."""
        return self._tables.get(request_id, [])

    def release(self, request_id: str) -> None:
        """Takes all blocks back; a request without any is fine."""
        for block in reversed(self._tables.pop(request_id, [])):  # a prefix outlives what follows
            if block not in self._owners:
                self._free.append(block)
                continue
            self._owners[block] -= 1
            if not self._owners[block]:
                self._kept[block] = None

    # Prefix caching

    def found(self, names: Sequence[bytes]) -> int:
        """How many of the first blocks so named are there."""
        for count, name in enumerate(names):
            if name not in self._named:
                return count
        return len(names)

    def share(self, request_id: str, names: Sequence[bytes]) -> int:
        """Gives a request without blocks those of the first names that are there; how many."""
        count = self.found(names)
        if count:
            table = self._tables[request_id] = [self._named[name] for name in names[:count]]
            for block in table:
                self._kept.pop(block, None)
                self._owners[block] += 1
        return count

    def name(self, request_id: str, first: int, names: Sequence[bytes]) -> None:
        """Names the request's blocks from the `first` on: they are computed and may be shared.

        A name that another block has stays there.
        """
        table = self._tables.get(request_id, [])
        for block, name in zip(table[first : first + len(names)], names, strict=True):
            if block not in self._names and name not in self._named:
                self._names[block], self._named[name] = name, block
                self._owners[block] = 1

    # Looking in

    def occupancy(self, reserved_blocks: int) -> KvOccupancy:
        """The pool's state, with what the caller expects admitted requests to grow by."""
        return KvOccupancy(
            total_blocks=self.num_blocks,
            used_blocks=self.num_blocks - self.num_free,
            free_blocks=self.num_free,
            reserved_blocks=reserved_blocks,
        )

    def check_invariants(self) -> None:
        """Raises InvariantError unless each block is in one place, or shared under its name."""
        counts: dict[int, int] = {}
        for table in self._tables.values():
            for block in table:
                counts[block] = counts.get(block, 0) + 1
        if sorted([*self._free, *self._kept, *counts]) != list(range(self.num_blocks)):
            raise InvariantError("KV ledger: a block is lost or in two places")
        if any(count > 1 and block not in self._owners for block, count in counts.items()):
            raise InvariantError("KV ledger: a block without a name has two owners")
        if any(counts.get(block, 0) != num for block, num in self._owners.items()):
            raise InvariantError("KV ledger: a block's owners are miscounted")
        if {name: block for block, name in self._names.items()} != self._named:
            raise InvariantError("KV ledger: a name is lost or stands for two blocks")
        if not self._names.keys() == self._owners.keys() >= self._kept.keys():
            raise InvariantError("KV ledger: a block is kept or counted without a name")

    def _forget_oldest(self) -> None:
        block = next(iter(self._kept))
        del self._kept[block], self._owners[block]
        del self._named[self._names.pop(block)]
        self._free.append(block)
