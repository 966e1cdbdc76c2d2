"""What a live cluster says of its instances and decisions, with the times at which it was heard."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from rondo.bus import subjects
from rondo.bus.protocol import Bus, Incoming
from rondo.local.status import connect
from rondo.wire.messages import Event, Fields, StatusReply, StatusRequest

SAMPLE_S = 1.0
ANSWER_WAIT_S = 0.3


@dataclass(frozen=True, slots=True)
class Sample:
    """Who takes requests at an instant: instances of each macro-instance."""

    at_s: float
    sizes: tuple[int, ...]

    @property
    def num_instances(self) -> int:
        """All of them."""
        return sum(self.sizes)


@dataclass(slots=True)
class Watch:
    """Samples and events, in seconds since `start_s` of this machine's monotonic clock."""

    start_s: float
    samples: list[Sample] = field(default_factory=list)
    events: list[tuple[float, str, Fields]] = field(default_factory=list)

    async def run(self, nats_url: str) -> None:
        """Watches until cancelled."""
        bus = await connect(nats_url)
        try:
            await bus.subscribe(subjects.all_events(), self._on_event)
            while True:
                await self._sample(bus)
                await asyncio.sleep(SAMPLE_S)
        finally:
            await bus.close()

    def decisions(self) -> list[tuple[float, str, str]]:
        """(time, what was done, why) of scaling and mitosis."""
        found = []
        for at_s, kind, fields in self.events:
            if kind == "scaling":
                what = f"{fields['from']} to {fields['to']} instances"
                found.append((at_s, what, str(fields["reason"])))
            elif kind == "mitosis":
                found.append((at_s, str(fields["what"]), str(fields["reason"])))
        return found

    def hand_overs_s(self) -> list[float]:
        """How long each instance that was handed over had no scheduler."""
        left: dict[str, float] = {}
        spans = []
        for at_s, kind, fields in self.events:
            if kind != "instance":
                continue
            instance_id = str(fields["instance"])
            if str(fields.get("left", "")).startswith("handed over"):
                left[instance_id] = at_s
            elif "joined" in fields and instance_id in left:
                spans.append(at_s - left.pop(instance_id))
        return spans

    def _on_event(self, incoming: Incoming) -> None:
        event = incoming.message
        if isinstance(event, Event) and event.kind in ("instance", "mitosis", "scaling"):
            self.events.append((time.monotonic() - self.start_s, event.kind, event.fields))

    async def _sample(self, bus: Bus) -> None:
        at_s = time.monotonic() - self.start_s
        replies = await bus.request_many(subjects.STATUS, StatusRequest(), ANSWER_WAIT_S)
        found = [reply for reply in replies if isinstance(reply, StatusReply)]
        found.sort(key=lambda reply: reply.macro_id)
        self.samples.append(Sample(at_s, tuple(len(reply.instances) for reply in found)))
