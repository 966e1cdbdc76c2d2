"""What requests that decode together will hold at each step to come."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from operator import mul

#: An end, and the tokens that each request which ends there has then.
Row = tuple[int, Sequence[int]]


class Profile:
    """KV at the steps to come, in tokens; a block that is not full counts as full.

    Between two ends it only rises, so its peaks are at the ends. Blocks are counted exactly: how
    many tokens a request lacks to a full block follows from the step and from its place in the
    block at step 0, one of `block_size`.

    Args:
        rows: soonest end first.
    """

    def __init__(self, rows: Sequence[Row], block_size: int) -> None:
        self._size = block_size
        self._ends = [end for end, _ in rows]
        places, tokens, count = [0] * block_size, 0, 0
        self._after = [(places, tokens, count)]  # of what ends at a row or later
        held: list[int] = []
        for end, finals in reversed(rows):
            places = places.copy()
            count += len(finals)
            for final in finals:
                tokens += final - end
                places[(final - end) % block_size] += 1
            self._after.append((places, tokens, count))
            held.append(self._held(len(held) + 1, end))
        self._after.reverse()
        held.reverse()
        self.peak_tokens = max(held, default=0)
        """The most that they come to hold."""
        # A newcomer holds a token more with each step, so that earlier peaks weigh less for it.
        rising = (tokens + end for tokens, end in zip(held, self._ends, strict=True))
        self._rising = list(accumulate(rising, max))

    def peak_with(self, final_tokens: int, end: int) -> int:
        """The most until `end` with one more that has `final_tokens` there."""
        full = final_tokens + -final_tokens % self._size
        peak = self._held(bisect_left(self._ends, end), end) + full
        if sooner := bisect_right(self._ends, end):
            # Where it stands in its block at those steps is not looked at: its last may be full.
            peak = max(peak, self._rising[sooner - 1] + final_tokens + self._size - 1 - end)
        return peak

    def _held(self, row: int, step: int) -> int:
        """Tokens at `step` of what ends at a row or later."""
        places, tokens, count = self._after[row]
        lacking: int = sum(map(mul, places, _gaps(self._size)[step % self._size]))
        return tokens + count * step + lacking


@cache
def _gaps(block_size: int) -> list[list[int]]:
    """For each step, modulo the block size, and each place: tokens lacking to a full block."""
    places = range(block_size)
    return [[-(place + step) % block_size for place in places] for step in places]
