"""Background requests of a macro-instance: a queue of their own, behind everything else.

They need no turn, and no prediction of foreground requests knows of them: their instance runs them
in what is left over (`rides.py`) and takes their KV blocks back when it wants them. So all that is
decided here is where they wait for that: where most of the KV pool is free, or of what an instance
takes beyond it (`InstanceInfo.background_pools`).
"""

from __future__ import annotations

from typing import Protocol

from rondo.policy import events
from rondo.policy.events import AnyEffect, Event
from rondo.policy.running import info_of
from rondo.policy.view import InstanceView
from rondo.types import Progress, RequestInfo

#: A placed request that its instance does not name for so long is forgotten.
UNNAMED_S = 10.0
RETRY_AFTER_S = 5.0
_REPORTS = (events.InstanceReported, events.InstanceJoined)


class Owner(Protocol):
    """The macro-instance's scheduler."""

    views: dict[str, InstanceView]
    placed: dict[str, events.Admit]

    def place(self, admit: events.Admit) -> None:
        """Admits a request."""
        ...

    def effect(self, effect: AnyEffect) -> None:
        """Adds an effect to the decision."""
        ...

    def fits(self, view: InstanceView, request: RequestInfo) -> bool:
        """Whether the instance could ever hold the request."""
        ...


class BackgroundDesk:
    """Queues and places background requests.

    Args:
        max_wait_s, max_pending: bounds of the queue.
    """

    def __init__(self, owner: Owner, max_wait_s: float, max_pending: int) -> None:
        self._owner = owner
        self._max_wait_s = max_wait_s
        self._max_pending = max_pending
        self.pending: dict[str, RequestInfo] = {}
        """In order of coming."""
        self._stock: dict[str, _Stock] = {}

    def take(self, event: Event) -> None:
        """Follows what happened, when the owner knows it; new requests come by `add`."""
        if not self.pending and not self._stock and not _tells_of_background(event):
            return
        self._expire(event.at_s)
        match event:
            case events.InstanceReported():
                self._report(event.instance_id, event.progress, event.at_s)
            case events.InstanceJoined():
                instance_id = event.instance.instance_id
                self._stock.pop(instance_id, None)
                self._report(instance_id, event.progress, event.at_s)
            case events.InstanceLeft():
                self._stock.pop(event.instance_id, None)
            case events.RequestCancelled(request_id=request_id):
                self.pending.pop(request_id, None)
                for instance_id in list(self._stock):
                    self._drop(instance_id, request_id)

    def add(self, request: RequestInfo) -> None:
        """A request came that some instance can hold."""
        if request.request_id in self.pending:
            return
        if len(self.pending) >= self._max_pending:
            self._refuse(request, "queue_full", f"{len(self.pending)} requests are waiting")
        else:
            self.pending[request.request_id] = request

    def place(self, at_s: float) -> None:
        """Admits those for which there is room, in order."""
        while self.pending:
            request = next(iter(self.pending.values()))
            view = self._roomiest(request)
            if view is None:
                return
            del self.pending[request.request_id]
            instance_id = view.info.instance_id
            blocks = view.blocks.final(request)
            self._stock.setdefault(instance_id, _Stock()).add(request.request_id, blocks, at_s)
            self._owner.place(
                events.Admit(
                    request_id=request.request_id,
                    instance_id=instance_id,
                    turn=view.turn,
                    predicted_ttft_s=0.0,
                    predicted_tpot_s=0.0,
                    reasons=("background: runs in what others leave over",),
                )
            )

    def expects_news(self, instance_id: str) -> bool:
        """Whether background requests wait, or are believed to be on the instance."""
        return bool(self.pending) or instance_id in self._stock

    # Internals

    def _roomiest(self, request: RequestInfo) -> InstanceView | None:
        best, most = None, 0.0
        for view in self._owner.views.values():
            if not self._owner.fits(view, request):
                continue
            stock = self._stock.get(view.info.instance_id)
            pools = view.info.background_pools
            if stock and len(stock.requests) >= max(1.0, pools) * view.info.max_running:
                continue
            others = view.blocks.needed() + (stock.blocks if stock else 0)
            room = pools * view.info.num_blocks - others
            if room < view.blocks.final(request) and others:  # alone it may have all
                continue
            if best is None or room > most:
                best, most = view, room
        return best

    def _report(self, instance_id: str, progress: Progress, at_s: float) -> None:
        for finished in progress.finished:
            self._drop(instance_id, finished.request_id)
        view = self._owner.views.get(instance_id)
        if progress.members is None or view is None:
            return
        named = {m.request_id: m for m in progress.members if m.background}
        if stock := self._stock.get(instance_id):
            for request_id, since_s in list(stock.requests.items()):
                if request_id not in named and at_s - since_s > UNNAMED_S:
                    self._drop(instance_id, request_id)
                    self._owner.placed.pop(request_id, None)
        for request_id, member in named.items():
            known = self._stock.setdefault(instance_id, _Stock())
            if request_id not in known.requests:
                known.add(request_id, view.blocks.final(info_of(member, at_s)), at_s)
            else:
                known.requests[request_id] = at_s

    def _drop(self, instance_id: str, request_id: str) -> None:
        if stock := self._stock.get(instance_id):
            stock.drop(request_id)
            if not stock.requests:
                del self._stock[instance_id]

    def _expire(self, at_s: float) -> None:
        while self.pending:
            oldest = next(iter(self.pending.values()))
            if at_s < oldest.arrival_s + self._max_wait_s:
                return
            del self.pending[oldest.request_id]
            self._refuse(oldest, "overloaded", f"waited {self._max_wait_s:g} s for capacity")

    def _refuse(self, request: RequestInfo, reason: str, detail: str) -> None:
        """Not counted as load: nobody is to be started for what has time."""
        self._owner.effect(
            events.Reject(
                request_id=request.request_id,
                reason=reason,
                detail=detail,
                retry_after_s=RETRY_AFTER_S,
            )
        )


class _Stock:
    """What an instance has: when each was named last, and blocks at their predicted ends."""

    def __init__(self) -> None:
        self.requests: dict[str, float] = {}
        self.blocks = 0
        self._blocks: dict[str, int] = {}

    def add(self, request_id: str, blocks: int, at_s: float) -> None:
        self.requests[request_id] = at_s
        self._blocks[request_id] = blocks
        self.blocks += blocks

    def drop(self, request_id: str) -> None:
        if self.requests.pop(request_id, None) is not None:
            self.blocks -= self._blocks.pop(request_id)


def _tells_of_background(event: Event) -> bool:
    if not isinstance(event, _REPORTS):
        return False
    return any(member.background for member in event.progress.members or ())
