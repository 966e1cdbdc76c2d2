"""Join-shortest-queue, by the client itself: what a router of replicas does, at no cost of its own.

A router that is a program of its own knows no more than this client does, which sends everything
that these servers get; so no such router does better, and its own time is saved.
"""

from __future__ import annotations

from collections.abc import Sequence


class ShortestQueue:
    """Chooses among equal servers: the one with the fewest requests under way.

    Ties go to the one that has had fewest, so that servers that are idle take turns.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(urls)
        self._under_way = [0] * len(self._urls)
        self._taken = [0] * len(self._urls)

    def take(self) -> int:
        """The number of the server for one more request; `ended` has to be told of its end."""
        order = range(len(self._urls))
        chosen = min(order, key=lambda i: (self._under_way[i], self._taken[i], i))
        self._under_way[chosen] += 1
        self._taken[chosen] += 1
        return chosen

    def url(self, number: int) -> str:
        """Of the server with this number."""
        return self._urls[number]

    def ended(self, number: int) -> None:
        """A request to this server has ended, however it did."""
        self._under_way[number] -= 1
