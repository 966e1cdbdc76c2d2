"""Instances in the order in which a prompt is offered to them; kept, not sorted anew for each."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from rondo.policy.view import InstanceView

#: Prompt tokens to compute, requests, rank, room in the next step (-1: it takes no prompts), view.
#: The rank is unique, so what follows it is never compared.
_Entry = tuple[int, int, int, int, InstanceView]


class LoadOrder:
    """Where a step with prompts is to come anyway, and has room for this one, comes first; then
    the instance with the fewest prompt tokens before it, then the one with the fewest requests.

    An instance that changed has to be settled, or touched: then its place is found again when the
    order is asked for, however often it changed until then.
    """

    def __init__(self) -> None:
        self._order: list[_Entry] = []
        self._entries: dict[int, _Entry] = {}  # by rank
        self._touched: dict[int, InstanceView] = {}

    def touch(self, view: InstanceView) -> None:
        """The instance is new, or has changed."""
        self._touched[view.rank] = view

    def drop(self, view: InstanceView) -> None:
        """The instance is gone."""
        self._touched.pop(view.rank, None)
        self._remove(view.rank)

    def settle(self, view: InstanceView) -> None:
        """Finds the place of an instance that is new, or has changed."""
        if self._touched:
            self._touched.pop(view.rank, None)
        self._place(view)

    def offer(self, prompt_tokens: int) -> Iterator[InstanceView]:
        """All instances for a prompt; valid while none is touched."""
        if self._touched:
            touched, self._touched = self._touched, {}
            for view in touched.values():
                self._place(view)
        for entry in self._order:
            if entry[3] >= prompt_tokens:
                yield entry[4]
        for entry in self._order:
            if entry[3] < prompt_tokens:
                yield entry[4]

    def _place(self, view: InstanceView) -> None:
        rank, waiting, riders = view.rank, len(view.outstanding), view.running.num + len(view.fresh)
        todo, room = 0, -1
        if waiting:
            todo = view.waiting.tokens
            room = max(-1, view.batching.tokens - riders - todo)
        entry = (todo, waiting + riders + len(view.carry), rank, room, view)
        known = self._entries.get(rank)
        if known is None:
            insort(self._order, entry)
        elif known == entry:
            return
        else:
            place = bisect_left(self._order, known)
            if known[:3] == entry[:3]:
                self._order[place] = entry
            else:
                del self._order[place]
                insort(self._order, entry)
        self._entries[rank] = entry

    def _remove(self, rank: int) -> None:
        if entry := self._entries.pop(rank, None):
            del self._order[bisect_left(self._order, entry)]
