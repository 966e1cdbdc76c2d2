"""Feeds a gateway with tokens: coordinator and instances played by one object on the bus.

Requests are admitted at once. Two instances make steps in turns, each step a token (or several)
for each of its streams in one frame, as workers send them. The next step of one is sent when
clients have received its last: so the gateway is never idle, and never so far behind that it would
bundle steps into one event.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from rondo.bus import subjects
from rondo.bus.protocol import Bus, Incoming, Subscription
from rondo.perf.profile import LatencyProfile
from rondo.types import FinishReason, MacroLoad
from rondo.wire.messages import (
    Admitted,
    InstanceRecord,
    MacroRecord,
    Run,
    Submit,
    TokenDelta,
    TokenFrame,
)

NUM_INSTANCES = 2
MAX_MODEL_LEN = 1 << 20
_PROFILE = LatencyProfile(
    name="feeder",
    source="no engine: tokens come as fast as they are taken",
    prefill_floor_ms=(0.0, 0.0),
    prefill_line_ms=(0.0, 0.0),
    prefill_attn_ms=(0.0, 0.0, 0.0),
    decode_ms=(0.0, 0.0, 0.0),
)


@dataclass(slots=True)
class _Instance:
    """One emulated instance: tokens left by stream, and the number of its next frame."""

    instance_id: str
    incarnation: str
    left: dict[str, int] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    seq: int = 0

    def step(self, tokens: tuple[int, ...]) -> tuple[TokenFrame, int]:
        """The next frame, and how many tokens are in it."""
        deltas: list[TokenDelta] = []
        count = 0
        for request_id, left in list(self.left.items()):
            some = tokens[: min(len(tokens), left)]
            index = self.sent[request_id]
            self.sent[request_id] = index + len(some)
            finish = None
            if left == len(some):
                finish = FinishReason.LENGTH
                del self.left[request_id], self.sent[request_id]
            else:
                self.left[request_id] = left - len(some)
            deltas.append(TokenDelta(request_id, index, some, finish))
            count += len(some)
        frame = TokenFrame(
            instance_id=self.instance_id,
            incarnation=self.incarnation,
            seq=self.seq,
            deltas=tuple(deltas),
        )
        self.seq += 1
        return frame, count


class Feeder:
    """Plays the cluster behind a gateway.

    Args:
        token: the id that every token has; its text must occur nowhere else in an event.
        received: how many tokens the clients have by now.
        tokens_a_step: 16 is a stream that is behind.
    """

    def __init__(
        self, bus: Bus, model: str, token: int, received: Callable[[], int], tokens_a_step: int = 1
    ) -> None:
        self._bus = bus
        self._model = model
        self._tokens = (token,) * tokens_a_step
        self._received = received
        self._macro_id = subjects.macro_id_of(model)
        incarnation = uuid.uuid4().hex[:8]  # the gateway numbers frames of each
        self._instances = [_Instance(f"feed{i}", incarnation) for i in range(NUM_INSTANCES)]
        self._gateway_id = ""
        self._num_placed = 0
        self._num_sent = 0
        self._wake = asyncio.Event()
        self._subscriptions: list[Subscription] = []
        self.num_frames = 0

    async def start(self) -> None:
        """Subscribes, and makes the gateway believe in a macro-instance."""
        handlers = {subjects.submit(self._macro_id): self._on_submit}
        handlers |= {subjects.run(one.instance_id): self._on_run for one in self._instances}
        for subject, handler in handlers.items():
            self._subscriptions.append(await self._bus.subscribe(subject, handler))
        instances = await self._bus.key_value(subjects.INSTANCES_BUCKET)
        for instance in self._instances:
            await instances.put(instance.instance_id, _record(instance, self._model))
        macros = await self._bus.key_value(subjects.MACROS_BUCKET)
        ids = tuple(instance.instance_id for instance in self._instances)
        macro = MacroRecord(
            macro_id=self._macro_id,
            model=self._model,
            owner_id="feeder",
            epoch=1,
            beat=1,
            max_model_len=MAX_MODEL_LEN,
            instance_ids=ids,
            load=MacroLoad(),
        )
        await macros.put(self._macro_id, macro)

    async def stop(self) -> None:
        """Listens no longer."""
        for subscription in self._subscriptions:
            await subscription.close()

    def wake(self) -> None:
        """Clients have received more."""
        self._wake.set()

    async def feed(self, num_streams: int, began: Callable[[], None]) -> None:
        """Steps from when all streams have arrived until all are complete; `began` between."""
        while sum(len(instance.left) for instance in self._instances) < num_streams:
            await self._woken()
        began()
        self._num_sent = self._received()
        share = max(len(instance.left) for instance in self._instances) * len(self._tokens)
        turn = 0
        while any(instance.left for instance in self._instances):
            while self._num_sent - self._received() > share:
                await self._woken()
            instance = self._instances[turn % NUM_INSTANCES]
            turn += 1
            if not instance.left:
                continue
            frame, count = instance.step(self._tokens)
            self._num_sent += count
            self.num_frames += 1
            await self._bus.publish(subjects.tokens(self._gateway_id), frame)

    async def _woken(self) -> None:
        self._wake.clear()
        await self._wake.wait()

    def _on_submit(self, incoming: Incoming) -> None:
        message = incoming.message
        if not isinstance(message, Submit) or incoming.respond is None:
            return
        instance = self._instances[self._num_placed % NUM_INSTANCES]
        self._num_placed += 1
        admitted = Admitted(
            request_id=message.request_id,
            instance_id=instance.instance_id,
            epoch=1,
            turn=self._num_placed,
            predicted_ttft_s=0.0,
            predicted_tpot_s=0.0,
        )
        task = asyncio.ensure_future(incoming.respond(admitted))
        task.add_done_callback(lambda done: done.result())

    def _on_run(self, incoming: Incoming) -> None:
        message = incoming.message
        if not isinstance(message, Run):
            return
        self._gateway_id = message.gateway_id
        instance_id = incoming.subject.split(".")[-2]
        instance = next(one for one in self._instances if one.instance_id == instance_id)
        instance.left[message.request_id] = message.max_tokens
        instance.sent[message.request_id] = 0
        self._wake.set()


def _record(instance: _Instance, model: str) -> InstanceRecord:
    return InstanceRecord(
        instance_id=instance.instance_id,
        incarnation=instance.incarnation,
        model=model,
        engine="feeder",
        max_model_len=MAX_MODEL_LEN,
        block_size=16,
        num_blocks=1 << 20,
        max_running=1024,
        max_prefill_tokens=4096,
        profile=_PROFILE,
    )
