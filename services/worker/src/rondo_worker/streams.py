"""Tokens on their way out: one frame an engine step and gateway, kept a while for resync."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from rondo.bus import subjects
from rondo.bus.sequence import Sequencer
from rondo.errors import EngineError
from rondo.policy.plan import NewToken
from rondo.types import FinishReason
from rondo.wire.messages import Message, Resync, TokenDelta, TokenFrame

#: Finished answers kept for gateways that missed a frame.
KEPT_ANSWERS = 4096


@dataclass(slots=True)
class Answer:
    """What a request has produced, and for whom."""

    gateway_id: str
    tokens: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    error: str | None = None


class TokenStreams:
    """Answers of one incarnation of an instance."""

    def __init__(self, instance_id: str, send: Callable[[str, Message], None]) -> None:
        self._instance_id = instance_id
        self._send = send
        self._incarnation = ""
        self._live: dict[str, Answer] = {}
        self._kept: OrderedDict[str, Answer] = OrderedDict()
        self._sequencer = Sequencer()
        self.idle = asyncio.Event()
        """Set while no answer is incomplete."""
        self.idle.set()

    def restart(self, incarnation: str) -> None:
        """Forgets everything: the instance has registered anew."""
        self._incarnation = incarnation
        self._live.clear()
        self.idle.set()
        self._kept.clear()
        self._sequencer = Sequencer()

    def open(self, request_id: str, gateway_id: str) -> bool:
        """A request arrived; False when it is known already."""
        if request_id in self._live or request_id in self._kept:
            return False
        self._live[request_id] = Answer(gateway_id)
        self.idle.clear()
        return True

    def drop(self, request_id: str) -> bool:
        """Nobody wants the answer any more; whether it was incomplete."""
        return self._end(request_id) is not None

    def step(self, tokens: tuple[NewToken, ...]) -> None:
        """Sends what a step produced."""
        frames: dict[str, list[TokenDelta]] = {}
        for token in tokens:
            answer = self._live.get(token.request_id)
            if answer is None:
                continue
            answer.tokens.append(token.token)
            delta = TokenDelta(token.request_id, token.index, (token.token,), token.finish)
            frames.setdefault(answer.gateway_id, []).append(delta)
            if token.finish:
                answer.finish = token.finish
                self._keep(token.request_id)
        for gateway_id, deltas in frames.items():
            self._frame(gateway_id, tuple(deltas))

    def fail(self, error: EngineError) -> None:
        """Ends requests with an error."""
        for request_id in error.request_ids:
            self.refuse(request_id, error.problem)

    def refuse(self, request_id: str, problem: str) -> None:
        """Ends one request with an error."""
        if answer := self._live.get(request_id):
            answer.finish, answer.error = FinishReason.ERROR, problem
            self._keep(request_id)
            index = len(answer.tokens)
            delta = TokenDelta(request_id, index, (), FinishReason.ERROR, problem)
            self._frame(answer.gateway_id, (delta,))

    def resync(self, message: Resync) -> None:
        """Sends tokens again; a request that is not known here is answered as such."""
        request_id, index = message.request_id, message.from_index
        answer = self._live.get(request_id) or self._kept.get(request_id)
        if answer is None:
            delta = TokenDelta(request_id, index, (), FinishReason.CANCELLED)
        else:
            tokens = tuple(answer.tokens[index:])
            delta = TokenDelta(request_id, index, tokens, answer.finish, answer.error)
        self._frame(message.gateway_id, (delta,))

    def _keep(self, request_id: str) -> None:
        if answer := self._end(request_id):
            self._kept[request_id] = answer
        if len(self._kept) > KEPT_ANSWERS:
            self._kept.popitem(last=False)

    def _end(self, request_id: str) -> Answer | None:
        answer = self._live.pop(request_id, None)
        if not self._live:
            self.idle.set()
        return answer

    def _frame(self, gateway_id: str, deltas: tuple[TokenDelta, ...]) -> None:
        frame = TokenFrame(
            instance_id=self._instance_id,
            incarnation=self._incarnation,
            seq=self._sequencer.next(gateway_id),
            deltas=deltas,
        )
        self._send(subjects.tokens(gateway_id), frame)
