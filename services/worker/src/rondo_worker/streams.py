"""Tokens on their way out: one frame an engine step and gateway, kept a while for resync."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rondo.bus import subjects
from rondo.bus.sequence import Sequencer
from rondo.errors import EngineError
from rondo.logprobs import Logprobs
from rondo.policy.plan import NewToken
from rondo.types import FinishReason
from rondo.wire.messages import FirstToken, Message, Resync, TokenDelta, TokenFrame
from rondo_worker.engines.base import NO_LOGPROBS, StepLogprobs, UnsupportedRequest
from rondo_worker.spans import answer_spans

#: Answers that may be incomplete at a time; who asks for more is told to ask elsewhere.
MAX_LIVE = 4096
#: Finished answers kept for gateways that missed a frame, and their tokens in all.
KEPT_ANSWERS = 4096
KEPT_TOKENS = 1 << 20
#: Memory of one token's logprobs, in tokens.
LOGPROBS_TOKENS = 64
#: A step may end hundreds of short prompts, and a vector takes up to 32 KiB: so many go into one
#: frame, far below the bus's limit.
EMBEDDINGS_A_FRAME = 32


@dataclass(slots=True)
class Answer:
    """What a request has produced, and for whom. `opened_s` is on this worker's clock."""

    gateway_id: str
    opened_s: float
    traceparent: str = ""
    began_s: float | None = None
    """When its first prefill step began."""
    prefill_s: float = 0.0
    first_s: float | None = None
    first: FirstToken | None = None
    tokens: array[int] = field(default_factory=lambda: array("i"))
    logprobs: list[Logprobs] = field(default_factory=list)
    finish: FinishReason | None = None
    error: str | None = None
    refused: str | None = None

    @property
    def weight_tokens(self) -> int:
        """How many plain tokens take as much memory."""
        prompt = self.first.prompt if self.first else None
        embedding = len(self.first.embedding) // self.tokens.itemsize if self.first else 0
        rows = len(self.logprobs) + len(prompt or ())
        return len(self.tokens) + embedding + LOGPROBS_TOKENS * rows

    def delta(self, request_id: str, index: int) -> TokenDelta:
        """Everything from `index` on."""
        logprobs = self.logprobs[index:]
        return TokenDelta(
            request_id,
            index,
            tuple(self.tokens[index:]),
            self.finish,
            self.error,
            Logprobs.join(logprobs) if logprobs else None,
            None if index else self.first,
            self.refused,
        )


class TokenStreams:
    """Answers of one incarnation of an instance."""

    def __init__(self, instance_id: str, send: Callable[[str, Message], None]) -> None:
        self._instance_id = instance_id
        self._send = send
        self._incarnation = ""
        self._live: dict[str, Answer] = {}
        self._kept: OrderedDict[str, Answer] = OrderedDict()
        self._kept_tokens = 0
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
        self._kept_tokens = 0
        self._sequencer = Sequencer()

    @property
    def live(self) -> tuple[str, ...]:
        """Requests whose answers are incomplete, in order of arrival."""
        return tuple(self._live)

    def unbegun(self, for_s: float) -> list[str]:
        """Requests that came so long ago and have no token yet."""
        before_s = time.monotonic() - for_s
        return [r for r, a in self._live.items() if not a.tokens and a.opened_s < before_s]

    def open(self, request_id: str, gateway_id: str, traceparent: str = "") -> bool:
        """A request arrived; False when it is known already, or one too many."""
        if request_id in self._live or request_id in self._kept:
            return False
        if len(self._live) >= MAX_LIVE:
            self.elsewhere(request_id, gateway_id)
            return False
        self._live[request_id] = Answer(gateway_id, time.monotonic(), traceparent)
        self.idle.clear()
        return True

    def drop(self, request_id: str) -> bool:
        """Nobody wants the answer any more; whether it was incomplete."""
        return self._end(request_id) is not None

    def prefilled(self, request_ids: Iterable[str], began_s: float, ended_s: float) -> None:
        """A step between these times of the monotonic clock computed parts of these prompts."""
        for request_id in request_ids:
            if answer := self._live.get(request_id):
                if answer.began_s is None:
                    answer.began_s = began_s
                answer.prefill_s += ended_s - began_s

    def step(
        self, tokens: tuple[NewToken, ...], ended_s: float, logprobs: StepLogprobs = NO_LOGPROBS
    ) -> None:
        """Sends what a step produced, which ended at this time of the monotonic clock."""
        frames: dict[str, list[TokenDelta]] = {}
        for token in tokens:
            request_id = token.request_id
            answer = self._live.get(request_id)
            if answer is None:
                continue
            if not answer.tokens:
                answer.first_s = ended_s
                answer.first = _first(answer, request_id, logprobs)
            answer.tokens.append(token.token)
            if row := logprobs.tokens.get(request_id):
                answer.logprobs.append(row)
            if token.finish:
                answer.finish = token.finish
                self._keep(request_id)
            frames.setdefault(answer.gateway_id, []).append(answer.delta(request_id, token.index))
        most = EMBEDDINGS_A_FRAME if logprobs.embeddings else len(tokens)
        for gateway_id, deltas in frames.items():
            for begin in range(0, len(deltas), most):
                self._frame(gateway_id, tuple(deltas[begin : begin + most]))

    def fail(self, error: EngineError) -> None:
        """Ends requests with an error."""
        refused = error.param if isinstance(error, UnsupportedRequest) else None
        for request_id in error.request_ids:
            self.refuse(request_id, error.problem, refused)

    def refuse(self, request_id: str, problem: str, param: str | None = None) -> None:
        """Ends one request with an error; `param` is what this engine does not do."""
        if answer := self._live.get(request_id):
            answer.finish, answer.error = FinishReason.ERROR, problem
            answer.refused = param
            self._keep(request_id)
            self._frame(answer.gateway_id, (answer.delta(request_id, len(answer.tokens)),))

    def hand_back(self, request_id: str) -> None:
        """This instance will not go on with a request: its gateway shall ask another one."""
        if answer := self._end(request_id):
            self.elsewhere(request_id, answer.gateway_id, len(answer.tokens))

    def elsewhere(self, request_id: str, gateway_id: str, index: int = 0) -> None:
        """Tells a gateway that a request is not here, so that it asks another instance."""
        delta = TokenDelta(request_id, index, (), FinishReason.CANCELLED)
        self._frame(gateway_id, (delta,))

    def resync(self, message: Resync) -> None:
        """Sends tokens again; a request that is not known here is answered as such."""
        request_id, index = message.request_id, message.from_index
        answer = self._live.get(request_id) or self._kept.get(request_id)
        if answer is None:
            self.elsewhere(request_id, message.gateway_id, index)
        else:
            self._frame(message.gateway_id, (answer.delta(request_id, index),))

    def _keep(self, request_id: str) -> None:
        if answer := self._end(request_id):
            self._kept[request_id] = answer
            self._kept_tokens += answer.weight_tokens
        while len(self._kept) > KEPT_ANSWERS or self._kept_tokens > KEPT_TOKENS:
            _, oldest = self._kept.popitem(last=False)
            self._kept_tokens -= oldest.weight_tokens

    def _end(self, request_id: str) -> Answer | None:
        answer = self._live.pop(request_id, None)
        if answer is not None and answer.traceparent:
            answer_spans(self._instance_id, request_id, answer)
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


def _first(answer: Answer, request_id: str, brought: StepLogprobs) -> FirstToken:
    began_s = answer.opened_s if answer.began_s is None else answer.began_s
    return FirstToken(
        max(0.0, began_s - answer.opened_s),
        answer.prefill_s,
        brought.prompts.get(request_id),
        brought.embeddings.get(request_id, b""),
    )
