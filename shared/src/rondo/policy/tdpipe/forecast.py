"""Greedy prefill: KV use simulated at points ahead (TD-Pipe, section 3.2).

A request that is expected to bring n more tokens is there at every point up to n steps ahead, with
its tokens so far and one more for each step. What all of them use together at the fullest point
bounds how many prompts may be prefilled before decode goes on: memory is planned for the moment at
which it will be scarcest, so that prefilling stops late and preemptions stay few.
"""

from __future__ import annotations

from collections.abc import Sequence

from rondo.policy.ledger import blocks_for


class KvForecast:
    """Blocks in use at each of `points` steps ahead, summed over requests."""

    def __init__(self, points: Sequence[int], block_size: int) -> None:
        self._points = tuple(sorted(points))
        self._block_size = block_size
        self._blocks = [0] * len(self._points)

    def clear(self) -> None:
        """Forgets every request."""
        self._blocks = [0] * len(self._points)

    def add(self, known_tokens: int, expected_tokens: int) -> None:
        """Counts a request with `known_tokens` tokens that is to bring `expected_tokens` more."""
        for index, point in enumerate(self._points):
            if point > expected_tokens:
                break
            self._blocks[index] += blocks_for(known_tokens + point, self._block_size)

    @property
    def peak_blocks(self) -> int:
        """Blocks in use at the fullest point."""
        return max(self._blocks)
