"""Tells whoever watches how an answer went: an event on the bus, and nothing while nobody does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rondo.bus import subjects
from rondo.bus.protocol import Bus
from rondo.service.watched import Watched
from rondo.wire.messages import Event, Fields

if TYPE_CHECKING:
    from rondo_gateway.attempt import Links, Prompt

KIND = "answered"


class AnswerNews:
    """One for a gateway. Until `start` it tells nothing."""

    def __init__(self) -> None:
        self.watched = Watched()
        self._seq = 0

    async def start(self, bus: Bus) -> None:
        """Begins to listen for observers."""
        await self.watched.start(bus)

    def tell(
        self,
        links: Links,
        prompt: Prompt,
        instance_id: str,
        outcome: str,
        num_tokens: int,
        ledger: dict[str, float],
    ) -> None:
        """An answer ended; call it only while `watched`."""
        self._seq += 1
        fields: Fields = {
            "request": prompt.request_id,
            "model": prompt.model,
            "instance": instance_id,
            "outcome": outcome,
            "prompt_tokens": len(prompt.tokens),
            "tokens": num_tokens,
            "limit_ttft_ms": prompt.slo.ttft_s * 1000,
            "limit_tpot_ms": prompt.slo.tpot_s * 1000,
            **ledger,
        }
        event = Event(kind=KIND, source_id=links.gateway_id, seq=self._seq, fields=fields)
        links.answers.send(subjects.event(KIND), event)
