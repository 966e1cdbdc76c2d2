"""Token frames become answers: each token once and in order, whatever the bus does.

An answer drops what it already has by token index, asks its worker again where something is
missing, and ends in a finish reason or a typed error.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from rondo.bus import subjects
from rondo.bus.protocol import Bus, Incoming
from rondo.bus.sequence import Gap, SequenceTracker
from rondo.errors import EngineError, InstanceLost, RondoError
from rondo.logprobs import TokenLogprobs
from rondo.service import logs
from rondo.types import FinishReason
from rondo.wire.messages import FirstToken, Message, Resync, TokenDelta, TokenFrame
from rondo_gateway.errors import invalid
from rondo_gateway.metrics import GatewayMetrics
from rondo_gateway.news import News

log = logging.getLogger("rondo.gateway")

#: A worker that does not react to so many questions in a row is taken for lost.
MAX_UNANSWERED = 3
#: Names of requests' parameters for what an engine refuses.
_PARAMS = {"prompt_logprobs": "echo", "embed": "model"}
#: How long a worker has to answer for itself when the cluster says that it is gone.
DOUBT_S = 1.0

#: Takes new tokens at once; whether it takes more.
Relay = Callable[[Sequence[int]], bool]


class Answer:
    """Tokens of one request, filled by frames and read by one consumer.

    Args:
        ask: asks the worker to send the tokens from `num_tokens` on again.
    """

    def __init__(self, request_id: str, ask: Callable[[Answer], None]) -> None:
        self.request_id = request_id
        self.instance_id: str | None = None
        self.incarnation: str | None = None
        self.finish: FinishReason | None = None
        self.num_tokens = 0
        self._ask = ask
        self._error: Exception | None = None
        self.first: FirstToken | None = None
        self.params: dict[str, str] = {}
        """What clients call that which engines may refuse."""
        self._buffer: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._read_logprobs: list[TokenLogprobs] = []
        self._news = News()
        self._unanswered = 0
        self._asked_at = -1
        self._doubted = False
        self._heard_s = 0.0  # when the reader last got tokens, or began to wait for the first
        self._relay: Relay | None = None

    def take(self, delta: TokenDelta) -> None:
        """New tokens, maybe with some that are known, maybe after some that are missing."""
        self._unanswered = 0
        self._doubted = False
        if self.finish or self._error:
            return
        if self._relay is not None and self._relayed(delta, self._relay):
            return
        if delta.index > self.num_tokens:
            self.ask_for_hole()
            return
        new = delta.tokens[self.num_tokens - delta.index :]
        if delta.logprobs is not None:
            self._logprobs += delta.logprobs.part(self.num_tokens - delta.index).rows()
        self.first = self.first or delta.first
        self._buffer.extend(new)
        self.num_tokens += len(new)
        if len(self._logprobs) not in (0, len(self._buffer)):
            self.fail(EngineError("tokens came without their logprobs", (self.request_id,)))
        elif delta.refused is not None:
            self._refuse(delta.refused, delta.error or "")
        elif delta.error is not None:
            self.fail(EngineError(delta.error, (self.request_id,)))
        elif delta.finish is FinishReason.CANCELLED:
            self.lost()  # the instance has forgotten the request
        elif delta.finish:
            self.finish = delta.finish
        self._news.wake()

    def relay(self, relay: Relay) -> None:
        """Has tokens that come while the reader waits handed over at once, which saves waking it.

        Until `relay` returns False; all other news still go to the reader.
        """
        self._relay = relay

    def _relayed(self, delta: TokenDelta, relay: Relay) -> bool:
        """Hands plain new tokens over; False when they are for the reader."""
        if (
            delta.index != self.num_tokens
            or delta.finish is not None
            or delta.error is not None
            or delta.logprobs is not None
            or delta.first is not None
            or not self._news.awaited
        ):
            return False
        self.num_tokens += len(delta.tokens)
        self._heard_s = time.monotonic()
        self._news.put_off()
        try:
            if not relay(delta.tokens):
                self._relay = None
        except Exception as error:  # raised where the reader is, as if it had done that itself
            self._error = error
            self._news.wake()
        return True

    def _refuse(self, what: str, problem: str) -> None:
        param = self.params.get(what, _PARAMS.get(what, what))
        message = f"Invalid '{param}': the engine of this model does not do that: {problem}"
        self.fail(invalid(message, param, "unsupported_parameter"))

    def ask_for_hole(self) -> None:
        """Tokens from `num_tokens` on are missing: asks for them, once for each hole."""
        if self._asked_at != self.num_tokens:
            self._asked_at = self.num_tokens
            self._ask(self)

    def doubt(self) -> None:
        """The cluster says the instance is gone: it must answer at once, or is lost."""
        self._doubted = True
        self._ask(self)
        self._news.wake()

    def fail(self, error: RondoError) -> None:
        """Ends the answer with an error, after the tokens that are there."""
        if self._error is None and self.finish is None:
            self._error = error
            self._news.wake()

    def close(self) -> None:
        """Nobody reads any more."""
        self._relay = None
        self._news.close()

    def lost(self) -> None:
        """The instance is gone."""
        self.fail(InstanceLost(self.instance_id or "unknown"))

    async def read(self, stall_s: float, patience_s: float) -> list[int]:
        """The tokens since the last read; empty only at the end.

        Silence of `stall_s` makes it ask; after `patience_s` without a new token it gives up,
        even on a worker that answers.

        Raises:
            InstanceLost, EngineError: the answer will not be completed.
        """
        if not self._buffer:
            await self.first_token(stall_s, patience_s)
        tokens, self._buffer = self._buffer, []
        self._read_logprobs, self._logprobs = self._logprobs, []
        return tokens

    def take_logprobs(self) -> list[TokenLogprobs]:
        """Those of the tokens read last; none if the request has none."""
        taken, self._read_logprobs = self._read_logprobs, []
        return taken

    async def first_token(self, stall_s: float, patience_s: float) -> None:
        """Waits for tokens that were not read, or for the end; see `read`."""
        self._heard_s = time.monotonic()
        while not self._buffer:
            if self._error:
                raise self._error
            if self.finish:
                return
            if not await self._news.wait(DOUBT_S if self._doubted else stall_s):
                self._stalled(patience_s)

    def _stalled(self, patience_s: float) -> None:
        silent = self._doubted or self._unanswered >= MAX_UNANSWERED
        if silent or time.monotonic() > self._heard_s + patience_s:
            self.lost()
            return
        self._unanswered += 1
        self._ask(self)


class Answers:
    """All live answers of this gateway, and its subscription to token frames."""

    def __init__(self, bus: Bus, gateway_id: str, metrics: GatewayMetrics) -> None:
        self._bus = bus
        self._gateway_id = gateway_id
        self._metrics = metrics
        self._live: dict[str, Answer] = {}
        self._sequence = SequenceTracker()
        self._sends: set[asyncio.Task[None]] = set()
        metrics.watch_live(lambda: len(self._live))

    async def start(self) -> None:
        """Subscribes to this gateway's frames."""
        await self._bus.subscribe(subjects.tokens(self._gateway_id), self._on_frame)

    def open(self, request_id: str) -> Answer:
        """Starts listening for a request's tokens."""
        answer = Answer(request_id, self._resync)
        self._live[request_id] = answer
        return answer

    def close(self, answer: Answer) -> None:
        """Stops listening."""
        self._live.pop(answer.request_id, None)
        answer.close()

    def instance_changed(self, instance_id: str, incarnation: str | None) -> None:
        """An instance has started anew, so what ran on it is lost; or it is gone (None)."""
        for answer in list(self._live.values()):
            if answer.instance_id != instance_id:
                continue
            if incarnation is None or answer.incarnation is None:
                answer.doubt()  # only the record may be gone, or it may run on the new one
            elif answer.incarnation != incarnation:
                answer.lost()

    def send(self, subject: str, message: Message) -> None:
        """Publishes without waiting, from synchronous code; a failure is only logged."""
        task = asyncio.create_task(self._publish(subject, message))
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)

    def _on_frame(self, incoming: Incoming) -> None:
        frame = incoming.message
        if not isinstance(frame, TokenFrame):
            return
        self._metrics.frames.inc()
        problem = self._sequence.observe(frame.instance_id, frame.incarnation, frame.seq)
        if isinstance(problem, Gap):
            self._metrics.gaps.inc()
            self._ask_all(frame.instance_id)
        for delta in frame.deltas:
            answer = self._live.get(delta.request_id)
            if answer is not None:
                answer.incarnation = frame.incarnation
                answer.take(delta)

    def _ask_all(self, instance_id: str) -> None:
        """A frame was lost, and nobody knows whose tokens were in it."""
        for answer in self._live.values():
            if answer.instance_id == instance_id:
                answer.ask_for_hole()

    def _resync(self, answer: Answer) -> None:
        if answer.instance_id is None:
            return
        self._metrics.resyncs.inc()
        message = Resync(
            request_id=answer.request_id,
            gateway_id=self._gateway_id,
            from_index=answer.num_tokens,
        )
        self.send(subjects.run(answer.instance_id), message)

    async def _publish(self, subject: str, message: Message) -> None:
        try:
            await self._bus.publish(subject, message)
        except RondoError as error:
            logs.warning(log, "send_failed", subject=subject, error=str(error))
