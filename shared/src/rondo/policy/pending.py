"""Requests that wait for admission, in the order in which they are tried."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator
from math import inf

from rondo.types import RequestInfo

#: Rank, number (unique, so what follows is never compared), request, predicted prefill time.
_Entry = tuple[float, int, RequestInfo, float]


class PendingQueue:
    """Ordered by (rank, order of coming); the oldest is found by a heap.

    `num` are there. `work_s` is the sum of what `add` was told as predicted prefill times.
    """

    def __init__(self) -> None:
        self.num = 0
        self.work_s = 0.0
        self._entries: dict[str, _Entry] = {}
        self._order: list[_Entry] = []
        self._arrivals: list[tuple[float, int, str]] = []
        self._next = 0

    def __len__(self) -> int:
        return self.num

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._entries

    def __iter__(self) -> Iterator[RequestInfo]:
        """In order; valid while nothing is added or removed."""
        return (request for _, _, request, _ in self._order)

    def first(self, count: int) -> list[RequestInfo]:
        """The first `count` in order."""
        return [request for _, _, request, _ in self._order[:count]]

    def least_rank(self) -> float:
        """What orders the first; infinite when there is none."""
        return self._order[0][0] if self._order else inf

    def add(self, request: RequestInfo, rank: float, work_s: float) -> None:
        """Puts a request in; the least rank comes first."""
        entry = self._entries[request.request_id] = (rank, self._next, request, work_s)
        self.num += 1
        self.work_s += work_s
        insort(self._order, entry)
        heapq.heappush(self._arrivals, (request.arrival_s, self._next, request.request_id))
        self._next += 1

    def pop(self, request_id: str) -> RequestInfo | None:
        """Takes a request out."""
        entry = self._entries.pop(request_id, None)
        if entry is None:
            return None
        self.num -= 1
        if self.num:
            self.work_s -= entry[3]
            del self._order[bisect_left(self._order, entry)]
        else:  # nothing must pile up: rounding, or arrivals of which nobody asks for the oldest
            self.work_s = 0.0
            self._order.clear()
            self._arrivals.clear()
        return entry[2]

    def rerank(self, request_id: str, rank: float) -> None:
        """Moves a request to another place, behind those of the same rank."""
        work_s = self.work_of(request_id)
        if request := self.pop(request_id):
            self.add(request, rank, work_s)

    def rank_of(self, request_id: str) -> float:
        """What orders the request."""
        return self._entries[request_id][0]

    def work_of(self, request_id: str) -> float:
        """The request's part of `work_s`."""
        return self._entries[request_id][3]

    def work_before(self, request_id: str) -> float:
        """The part of `work_s` that is tried before the request."""
        entry = self._entries[request_id]
        if self._order[-1] is entry:
            return self.work_s - entry[3]
        place = bisect_left(self._order, entry)
        return sum(before[3] for before in self._order[:place])

    def oldest(self) -> RequestInfo | None:
        """The one that arrived first."""
        while self._arrivals:
            _, number, request_id = self._arrivals[0]
            entry = self._entries.get(request_id)
            if entry is not None and entry[1] == number:
                return entry[2]
            heapq.heappop(self._arrivals)
        return None
