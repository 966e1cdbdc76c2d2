"""The book of reserved KV: how much each request may come to hold, and until when.

Blocks of a paged cache are alike, so a reservation is a count beside the ledger's tables. Time is
in decode steps: all requests that decode get one token in each, so what they will hold at any later
step is known as soon as their ends are.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection
from dataclasses import dataclass

from rondo.errors import InvariantError
from rondo.policy.econoserve.profile import Profile
from rondo.policy.ledger import blocks_for
from rondo.policy.plan import Job


@dataclass(slots=True, eq=False)
class Reservation:
    """KV of one request: `final_tokens` at `end_step`, and a token less for each step before.

    It holds no more than that if its next token is there by step `start_by`, for which some tokens
    are added to the `meant_tokens` at its end. With `still_blocks` nothing is promised any more:
    the request keeps these blocks and does not grow; `end_step` is None then.
    """

    job: Job
    final_tokens: int
    end_step: int | None
    start_by: int
    meant_tokens: int = 0
    still_blocks: int | None = None

    def blocks(self, block_size: int) -> int:
        """Blocks that it may come to hold."""
        if self.still_blocks is not None:
            return self.still_blocks
        return blocks_for(self.final_tokens, block_size)


class Book:
    """All reservations of an instance.

    Args:
        num_blocks: the pool. block_size: tokens in a block. lends: whether what one reserved and
        does not use yet may be another's.
    """

    def __init__(self, num_blocks: int, block_size: int, *, lends: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.lends = lends
        self.entries: dict[str, Reservation] = {}
        self.version = 0
        """Changes with every entry."""
        self.reserved_blocks = 0
        """Blocks that all may come to hold, were it at the same time."""
        self._ends: list[int] = []
        self._groups: dict[int, dict[str, Reservation]] = {}
        self._still: dict[str, Reservation] = {}
        self._profile: tuple[int, Profile] | None = None

    @property
    def promised(self) -> list[Reservation]:
        """Those that may grow, soonest end first."""
        return [entry for end in self._ends for entry in self._groups[end].values()]

    @property
    def still(self) -> Collection[Reservation]:
        """Those that keep what they have: they are paused, late, or decode elsewhere."""
        return self._still.values()

    @property
    def still_blocks(self) -> int:
        """Blocks of those, together."""
        return sum(entry.still_blocks or 0 for entry in self._still.values())

    def open(self, job: Job, step: int, left: int, delay: int) -> Reservation:
        """Reserves for a job that is to have `left` more tokens, the first of them at the latest
        `delay` steps from now."""
        entry = Reservation(job, 0, None, 0)
        self._promise(entry, job.known, step, left, delay)
        self.entries[job.request_id] = entry
        self._put_in(entry)
        return entry

    def renew(self, entry: Reservation, step: int, left: int, delay: int) -> None:
        """As `open`, for one that is here."""
        self._take_out(entry)
        self._promise(entry, entry.job.known, step, left, delay)
        self._put_in(entry)

    def run(self, entry: Reservation, known: int, step: int, left: int) -> None:
        """The request has `known` tokens at `step` and decodes `left` more from there."""
        self._take_out(entry)
        entry.final_tokens, entry.end_step = known + left, step + left
        entry.start_by, entry.still_blocks = step, None
        self._put_in(entry)

    def hold_still(self, entry: Reservation, blocks: int) -> None:
        """The request keeps these blocks and does not grow."""
        self._take_out(entry)
        entry.end_step, entry.still_blocks = None, blocks
        self._put_in(entry)

    def close(self, request_id: str) -> None:
        """The request gave up its blocks, or never had any."""
        if entry := self.entries.pop(request_id, None):
            self._take_out(entry)

    def due(self, step: int) -> list[Reservation]:
        """Those whose end has come, in order of arrival."""
        late: list[Reservation] = []
        for end in self._ends[: bisect_right(self._ends, step)]:
            late += self._groups[end].values()
        return sorted(late, key=lambda entry: entry.job.order)

    def profile(self) -> Profile:
        """What those that were promised room will hold at the steps to come."""
        if self._profile is None or self._profile[0] != self.version:
            rows = [
                (end, [entry.final_tokens for entry in self._groups[end].values()])
                for end in self._ends
            ]
            self._profile = self.version, Profile(rows, self.block_size)
        return self._profile[1]

    def fits(
        self, final: int, end: int, *, leaves: int = 0, instead_of: Reservation | None = None
    ) -> bool:
        """Whether a request may come to have `final` tokens at step `end`, with `leaves` blocks
        free at any time; `instead_of` is its old entry, which stands still."""
        limit, size = self.num_blocks - leaves, self.block_size
        own = instead_of.blocks(size) if instead_of else 0
        if not self.lends:
            return self.reserved_blocks - own + blocks_for(final, size) <= limit
        return self.profile().peak_with(final, end) <= (limit - self.still_blocks + own) * size

    def lasts(self, still: Reservation, blocks: int | None = None) -> bool:
        """Whether what stands still could keep its blocks, or so many, however long the promised
        ones take."""
        own = still.blocks(self.block_size)
        more = own if blocks is None else blocks
        promised = self.profile().peak_tokens // self.block_size
        return promised + self.still_blocks - own + more <= self.num_blocks

    @property
    def owned_blocks(self) -> int:
        """Of the reserved blocks, those that have to be there at the same time; the others are
        lent. What one keeps that was promised to others is lent, too."""
        if not self.lends:
            return min(self.reserved_blocks, self.num_blocks)
        promised = self.profile().peak_tokens // self.block_size
        return min(promised + self.still_blocks, self.num_blocks)

    def check_invariants(self) -> None:
        """Raises InvariantError when sums or groups disagree with the entries."""
        if self.reserved_blocks != sum(e.blocks(self.block_size) for e in self.entries.values()):
            raise InvariantError("KV book: the sum of reservations is wrong")
        listed = [*self.promised, *self._still.values()]
        if sorted(e.job.request_id for e in listed) != sorted(self.entries):
            raise InvariantError("KV book: a reservation is in no group or in two")
        if self._ends != sorted(self._groups) or not all(self._groups.values()):
            raise InvariantError("KV book: groups are miscounted")

    def _promise(self, entry: Reservation, known: int, step: int, left: int, delay: int) -> None:
        ahead = left - 1 + delay
        entry.final_tokens, entry.end_step = known + 1 + ahead, step + ahead
        entry.meant_tokens = known + left
        entry.start_by, entry.still_blocks = step + delay, None

    def _put_in(self, entry: Reservation) -> None:
        self.reserved_blocks += entry.blocks(self.block_size)
        self.version += 1
        end = entry.end_step
        if end is None:
            self._still[entry.job.request_id] = entry
            return
        if end not in self._groups:
            insort(self._ends, end)
            self._groups[end] = {}
        self._groups[end][entry.job.request_id] = entry

    def _take_out(self, entry: Reservation) -> None:
        self.reserved_blocks -= entry.blocks(self.block_size)
        self.version += 1
        end = entry.end_step
        if end is None:
            del self._still[entry.job.request_id]
            return
        del self._groups[end][entry.job.request_id]
        if not self._groups[end]:
            del self._groups[end]
            del self._ends[bisect_left(self._ends, end)]
