"""One try to get an answer, or the rest of one, from one instance.

Each try has a request id of its own, so whatever is still said about an earlier one is nobody's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from rondo import tracing
from rondo.bus import subjects
from rondo.bus.protocol import Bus
from rondo.errors import (
    BusUnavailable,
    CapacityError,
    DecodeError,
    NoResponder,
    RequestTimeout,
)
from rondo.logprobs import TokenLogprobs
from rondo.types import FinishReason, RequestInfo, Sampling, Slo
from rondo.wire.codec import pack_tokens
from rondo.wire.messages import (
    MOVED,
    Admitted,
    Cancel,
    FirstToken,
    Message,
    Rejected,
    Run,
    Submit,
)
from rondo_gateway.answers import Answers, Relay
from rondo_gateway.console.answered import AnswerNews
from rondo_gateway.directory import Directory
from rondo_gateway.lengths import OutputLengths
from rondo_gateway.metrics import GatewayMetrics
from rondo_gateway.settings import GatewaySettings
from rondo_gateway.text.assembler import TextRules

#: Submit is sent again when it is not answered for so long; a coordinator knows it by its id.
RESUBMIT_S = 2.0
#: Pause before the next try while no coordinator is there.
NO_COORDINATOR_PAUSE_S = 0.1
#: Pause before asking again when the macro-instance has another owner now.
MOVED_PAUSE_S = 0.01
#: Pause before the next try when the answer was no message of ours.
DAMAGED_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one answer is to be generated from. `arrival_s` is on this gateway's clock;
    `predicted_tokens` are those of the whole answer, 0 where nobody has predicted them yet."""

    request_id: str
    model: str
    tokens: list[int]
    max_tokens: int
    sampling: Sampling
    slo: Slo
    rules: TextRules
    ignore_eos: bool
    arrival_s: float
    grammar_param: str = "response_format"
    span: tracing.Span = tracing.NOTHING
    background: bool = False
    predicted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Links:
    """What a generation needs of its gateway."""

    bus: Bus
    gateway_id: str
    answers: Answers
    directory: Directory
    lengths: OutputLengths
    metrics: GatewayMetrics
    settings: GatewaySettings
    news: AnswerNews = field(default_factory=AnswerNews)


class Attempt:
    """The `number`-th try (from 1); `done` are the answer's tokens that earlier ones brought."""

    def __init__(self, links: Links, prompt: Prompt, number: int, done: Sequence[int]) -> None:
        self.number = number
        self.request_id = prompt.request_id if number == 1 else f"{prompt.request_id}~{number}"
        self._links = links
        self._prompt = prompt
        self._done = list(done)
        # A later try has no time to make good: it counts from now.
        self._arrival_s = prompt.arrival_s if number == 1 else time.monotonic()
        self._answer = links.answers.open(self.request_id)
        self._answer.params["grammar"] = prompt.grammar_param
        self._macro_id = ""  # where it was submitted to
        self._admission_span = tracing.NOTHING
        known = 0 if done else prompt.predicted_tokens
        self._predicted = known or links.lengths.predict(
            prompt.model,
            prompt.tokens,
            prompt.max_tokens,
            exact=prompt.ignore_eos,
            done=len(self._done),
        )
        # In the background it may stand still for as long as others are served.
        self._patience_s = inf if prompt.background else links.settings.patience_s

    @property
    def finish(self) -> FinishReason | None:
        """How the answer ended; tokens may still be unread."""
        return self._answer.finish

    @property
    def instance_id(self) -> str:
        """Where it runs; empty before it is admitted."""
        return self._answer.instance_id or ""

    @property
    def num_done(self) -> int:
        """Tokens of the answer that earlier tries brought."""
        return len(self._done)

    @property
    def num_tokens(self) -> int:
        """Tokens that came in this try, read or not."""
        return self._answer.num_tokens

    @property
    def first(self) -> FirstToken | None:
        """What the worker said with the first token of this try."""
        return self._answer.first

    def take_logprobs(self) -> list[TokenLogprobs]:
        """Those of the tokens read last, if they were asked for."""
        return self._answer.take_logprobs()

    async def start(self) -> None:
        """Waits for admission and sends the prompt.

        Raises:
            CapacityError: refused, or not admitted in time. PeerError: the bus failed.
        """
        admitted = await self._traced_admission()
        self._answer.instance_id = admitted.instance_id
        await self._links.bus.publish(subjects.run(admitted.instance_id), self._run())
        if not self._links.directory.present(admitted.instance_id):  # it has left meanwhile
            self._links.answers.instance_changed(admitted.instance_id, None)

    def read(self) -> Awaitable[list[int]]:
        """The tokens since the last read; empty only at the end.

        Raises:
            InstanceLost, EngineError: there will be no more. ApiError: see `first_token`.
        """
        return self._answer.read(self._links.settings.stall_s, self._patience_s)

    def relay(self, relay: Relay) -> None:
        """Has tokens handed over at once; see `Answer.relay`."""
        self._answer.relay(relay)

    async def first_token(self) -> None:
        """Waits until a token or an end of the answer is there; reads nothing.

        Raises:
            ApiError: the instance does not do what the request asks for.
        """
        await self._answer.first_token(self._links.settings.stall_s, self._patience_s)

    def close(self) -> None:
        """Stops listening; if the answer is not complete, everybody is told to stop."""
        links = self._links
        links.answers.close(self._answer)
        if self._answer.finish is None and self._macro_id:
            cancel = Cancel(request_id=self.request_id)
            links.answers.send(subjects.submit(self._macro_id), cancel)
            if self._answer.instance_id:
                links.answers.send(subjects.run(self._answer.instance_id), cancel)

    async def _traced_admission(self) -> Admitted:
        span = self._prompt.span.child("admission", kind=tracing.Kind.CLIENT)
        self._admission_span = span
        try:
            admitted = await self._admission()
        except BaseException as error:
            span.end(attributes=self._attributes(), error=type(error).__name__)
            raise
        span.end(attributes=self._attributes())
        return admitted

    def _attributes(self) -> tracing.Attributes:
        return {
            "rondo.request_id": self.request_id,
            "rondo.macro_id": self._macro_id,
            "rondo.attempt": self.number,
        }

    async def _admission(self) -> Admitted:
        prompt, settings = self._prompt, self._links.settings
        heard_s = time.monotonic()
        self._choose()
        while True:
            try:
                reply = await self._ask()
            except RequestTimeout:
                heard_s = time.monotonic()
            except DecodeError:  # damaged on its way; asked again, the answer is the same
                heard_s = time.monotonic()
                await asyncio.sleep(DAMAGED_PAUSE_S)
            except (NoResponder, BusUnavailable):
                await asyncio.sleep(NO_COORDINATOR_PAUSE_S)
                if time.monotonic() - heard_s > settings.no_coordinator_timeout_s:
                    detail = f"No coordinator serves the model '{prompt.model}' now."
                    raise CapacityError("no_instances", detail, 1.0) from None
                if not self._links.directory.owned(self._macro_id):
                    self._choose()
            else:
                if isinstance(reply, Admitted):
                    return reply
                if isinstance(reply, Rejected):
                    if reply.reason != MOVED:
                        raise CapacityError(reply.reason, reply.detail, reply.retry_after_s)
                    await asyncio.sleep(MOVED_PAUSE_S)
                    self._choose()
            if time.monotonic() - self._arrival_s > settings.admission_timeout_s:
                raise CapacityError("overloaded", "The request was not admitted in time.", 1.0)

    async def _ask(self) -> Message | None:
        """One submit; None when its macro-instance has another owner by now.

        Raises:
            RequestTimeout: ask again. NoResponder, BusUnavailable: nobody is there.
        """
        links, subject = self._links, subjects.submit(self._macro_id)
        takeover = links.directory.takeover(self._macro_id)
        request = asyncio.ensure_future(links.bus.request(subject, self._submit(), RESUBMIT_S))
        try:
            either: set[asyncio.Future[Any]] = {request, takeover}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return request.result() if request.done() else None
        finally:
            request.cancel()

    def _choose(self) -> None:
        """Picks a macro-instance to submit to; another one before it is told to forget us."""
        links, before = self._links, self._macro_id
        self._macro_id = links.directory.choose(self._prompt.model, self._info())
        if before and before != self._macro_id:
            links.answers.send(subjects.submit(before), Cancel(request_id=self.request_id))

    def _info(self) -> RequestInfo:
        prompt = self._prompt
        return RequestInfo(
            request_id=self.request_id,
            prompt_tokens=len(prompt.tokens) + len(self._done),
            max_tokens=prompt.max_tokens - len(self._done),
            predicted_tokens=self._predicted,
            slo=prompt.slo,
            arrival_s=self._arrival_s,
            background=prompt.background,
        )

    def _submit(self) -> Submit:
        info = self._info()
        return Submit(
            request_id=info.request_id,
            gateway_id=self._links.gateway_id,
            prompt_tokens=info.prompt_tokens,
            max_tokens=info.max_tokens,
            predicted_tokens=info.predicted_tokens,
            slo=info.slo,
            age_s=time.monotonic() - info.arrival_s,
            traceparent=self._admission_span.traceparent,
            background=info.background,
        )

    def _run(self) -> Run:
        prompt = self._prompt
        return Run(
            request_id=self.request_id,
            gateway_id=self._links.gateway_id,
            prompt=pack_tokens([*prompt.tokens, *self._done]),
            num_resumed=len(self._done),
            max_tokens=prompt.max_tokens - len(self._done),
            predicted_tokens=self._predicted,
            sampling=prompt.sampling,
            slo=prompt.slo,
            age_s=time.monotonic() - self._arrival_s,
            ignore_eos=prompt.ignore_eos,
            traceparent=prompt.span.traceparent,
            background=prompt.background,
        )
