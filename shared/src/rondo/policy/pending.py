"""Requests that wait for admission, in the order in which they are tried."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator
from math import inf

from rondo.types import RequestInfo


class PendingQueue:
    """Ordered by (rank, order of coming); the oldest is found by a heap.

    `work_s` is the sum of what `add` was told as predicted prefill times.
    """

    def __init__(self) -> None:
        self._requests: dict[str, RequestInfo] = {}
        self._ranks: dict[str, tuple[float, int]] = {}
        self._work_s: dict[str, float] = {}
        self.work_s = 0.0
        self._order: list[tuple[float, int, str]] = []
        self._arrivals: list[tuple[float, int, str]] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._requests

    def __iter__(self) -> Iterator[RequestInfo]:
        """In order; valid while nothing is added or removed."""
        return (self._requests[request_id] for _, _, request_id in self._order)

    def first(self, count: int) -> list[RequestInfo]:
        """The first `count` in order."""
        return [self._requests[request_id] for _, _, request_id in self._order[:count]]

    def least_rank(self) -> float:
        """What orders the first; infinite when there is none."""
        return self._order[0][0] if self._order else inf

    def add(self, request: RequestInfo, rank: float, work_s: float) -> None:
        """Puts a request in; the least rank comes first."""
        request_id = request.request_id
        self._requests[request_id] = request
        self._ranks[request_id] = (rank, self._next)
        self._work_s[request_id] = work_s
        self.work_s += work_s
        insort(self._order, (rank, self._next, request_id))
        heapq.heappush(self._arrivals, (request.arrival_s, self._next, request_id))
        self._next += 1

    def pop(self, request_id: str) -> RequestInfo | None:
        """Takes a request out."""
        request = self._requests.pop(request_id, None)
        if request is not None:
            self.work_s -= self._work_s.pop(request_id)
            if not self._requests:  # rounding must not pile up
                self.work_s = 0.0
            rank = self._ranks.pop(request_id)
            del self._order[bisect_left(self._order, (*rank, request_id))]
        return request

    def rerank(self, request_id: str, rank: float) -> None:
        """Moves a request to another place, behind those of the same rank."""
        work_s = self.work_of(request_id)
        if request := self.pop(request_id):
            self.add(request, rank, work_s)

    def rank_of(self, request_id: str) -> float:
        """What orders the request."""
        return self._ranks[request_id][0]

    def work_of(self, request_id: str) -> float:
        """The request's part of `work_s`."""
        return self._work_s[request_id]

    def work_before(self, request_id: str) -> float:
        """The part of `work_s` that is tried before the request."""
        if self._order[-1][2] == request_id:
            return self.work_s - self._work_s[request_id]
        place = bisect_left(self._order, (*self._ranks[request_id], request_id))
        return sum(self._work_s[before] for _, _, before in self._order[:place])

    def oldest(self) -> RequestInfo | None:
        """The one that arrived first."""
        while self._arrivals:
            _, number, request_id = self._arrivals[0]
            rank = self._ranks.get(request_id)
            if rank is not None and rank[1] == number:
                return self._requests[request_id]
            heapq.heappop(self._arrivals)
        return None
