"""Grants of one instance on their way: which of them it may not have got."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from rondo.types import RequestProgress

#: A granted request that the instance never names is given up after this time.
GRANT_TIMEOUT_S = 10.0
#: A grant that a full report does not show is sent again after this time.
GRANT_RESEND_S = 1.0


class Grants:
    """When each request was granted last; `lost` are grants that the instance does not know of."""

    __slots__ = ("_granted_s", "lost")

    def __init__(self) -> None:
        self.lost: list[str] = []
        self._granted_s: dict[str, float] = {}

    def add(self, request_id: str, at_s: float) -> None:
        """A request is granted."""
        self._granted_s[request_id] = at_s

    def resend(self, at_s: float) -> list[str]:
        """Takes the lost ones, which are being sent again."""
        lost, self.lost = self.lost, []
        self._granted_s.update((request_id, at_s) for request_id in lost)
        return lost

    def unnamed(
        self, named: Collection[str], outstanding: Collection[str], at_s: float
    ) -> list[str]:
        """Requests granted long ago of which the instance's full report says nothing."""
        overdue = self._before(at_s - GRANT_TIMEOUT_S, outstanding)
        return [request_id for request_id in overdue if request_id not in named]

    def look_for_lost(
        self, members: Iterable[RequestProgress], outstanding: Collection[str], at_s: float
    ) -> None:
        """Takes in what a full report says of grants."""
        overdue = self._before(at_s - GRANT_RESEND_S, outstanding)
        self.lost = [m.request_id for m in members if not m.granted and m.request_id in overdue]

    def _before(self, at_s: float, outstanding: Collection[str]) -> list[str]:
        if not self._granted_s:
            return []
        self._granted_s = {r: s for r, s in self._granted_s.items() if r in outstanding}
        return [r for r, granted_s in self._granted_s.items() if granted_s < at_s]
