"""Requests that this instance will not go on with, handed back: they go on elsewhere at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rondo.policy.live import LiveScheduler
from rondo.policy.turns import TurnEnd
from rondo.types import Finished, FinishReason
from rondo_worker.engines.base import Engine
from rondo_worker.loop import AnyLoop, StepRecord
from rondo_worker.streams import TokenStreams


class HandBack:
    """Ends requests here and tells their gateways, which own them and ask another instance.

    Args:
        post: calls a function with a value on the event loop, from the engine's thread.
        on_record: takes what the coordinator is to be told, on the event loop.
    """

    def __init__(
        self,
        loop: AnyLoop,
        streams: TokenStreams,
        post: Callable[[Callable[[StepRecord], None], StepRecord], None],
        on_record: Callable[[StepRecord], None],
    ) -> None:
        self._loop = loop
        self._streams = streams
        self._post = post
        self._on_record = on_record
        self.leaving = False
        """Whether this instance takes nothing new any more."""

    def leave(self) -> None:
        """From now on nothing begins here: what waits for its prefill goes, now and later."""
        self.leaving = True
        self._queued()

    def observe(self, record: StepRecord) -> None:
        """What a turn had no time for will not be granted again to one that leaves."""
        ends = (event for event in record.turn_events if isinstance(event, TurnEnd))
        if self.leaving and any(end.leftover for end in ends):
            self._queued()

    def ungranted(self, for_s: float) -> None:
        """What has waited so long for a grant: whoever admitted it has forgotten it."""
        candidates = self._streams.unbegun(for_s)
        if not candidates:
            return

        def pick(scheduler: LiveScheduler, engine: Engine) -> None:
            waiting = {m.request_id for m in scheduler.members(0.0) if not m.granted}
            self._end(scheduler, engine, [r for r in candidates if r in waiting])

        self._loop.post(pick)

    def everything(self) -> None:
        """Whatever is left, without waiting for the engine."""

        def clear(scheduler: LiveScheduler, engine: Engine) -> None:
            for member in scheduler.members(0.0):
                scheduler.cancel(member.request_id)
                engine.remove(member.request_id)

        self._loop.post(clear)
        for request_id in self._streams.live:
            self._streams.hand_back(request_id)

    def _queued(self) -> None:
        """What is not prefilled and would not be without another grant, or has not begun."""

        def pick(scheduler: LiveScheduler, engine: Engine) -> None:
            held = scheduler.ledger.held
            unbegun = (
                member.request_id
                for member in scheduler.members(0.0)
                if not member.tokens_out and not (member.granted and held(member.request_id))
            )
            self._end(scheduler, engine, list(unbegun))

        self._loop.post(pick)

    def _end(self, scheduler: LiveScheduler, engine: Engine, request_ids: Iterable[str]) -> None:
        """On the engine's thread."""
        ended = []
        for request_id in request_ids:
            scheduler.cancel(request_id)
            engine.remove(request_id)
            ended.append(Finished(request_id, FinishReason.CANCELLED, 0))
        if ended:
            self._post(self._tell, StepRecord(self._loop.progress(finished=tuple(ended))))

    def _tell(self, record: StepRecord) -> None:
        for finished in record.progress.finished:
            self._streams.hand_back(finished.request_id)
        self._on_record(record)
