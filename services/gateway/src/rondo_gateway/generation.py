"""One answer from prompt ids to text: admission, prompt to the worker, tokens back, stop strings.

The gateway owns the request: however this ends, everybody else is told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tokenizers import Tokenizer

from rondo.bus import subjects
from rondo.bus.protocol import Bus
from rondo.errors import BusUnavailable, CapacityError, NoResponder, RequestTimeout, RondoError
from rondo.metrics.lifecycle import Lifecycle
from rondo.types import FinishReason, Sampling, Slo
from rondo.wire.codec import pack_tokens
from rondo.wire.messages import Admitted, Cancel, Rejected, Run, Submit
from rondo_gateway.answers import Answers
from rondo_gateway.lengths import OutputLengths
from rondo_gateway.metrics import GatewayMetrics
from rondo_gateway.settings import GatewaySettings
from rondo_gateway.text.detokenizer import IncrementalDetokenizer
from rondo_gateway.text.stops import StopFilter

#: Submit is sent again when it is not answered for so long; a coordinator knows it by its id.
RESUBMIT_S = 2.0
#: Pause before the next try while no coordinator is there.
NO_COORDINATOR_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one answer is to be generated from. `arrival_s` is on this gateway's clock."""

    request_id: str
    model: str
    tokens: list[int]
    max_tokens: int
    sampling: Sampling
    slo: Slo
    stops: tuple[str, ...]
    ignore_eos: bool
    arrival_s: float


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of an answer; `finish` comes with the last one. `num_tokens` is the total so far."""

    text: str
    num_tokens: int
    finish: FinishReason | None


@dataclass(frozen=True, slots=True)
class Links:
    """What a generation needs of its gateway."""

    bus: Bus
    gateway_id: str
    answers: Answers
    lengths: OutputLengths
    metrics: GatewayMetrics
    settings: GatewaySettings


class Generation:
    """One answer. Call `start`, iterate `pieces`, and `close` in any case."""

    def __init__(self, links: Links, prompt: Prompt, tokenizer: Tokenizer) -> None:
        self._links = links
        self._prompt = prompt
        self._answer = links.answers.open(prompt.request_id)
        self._text = IncrementalDetokenizer(tokenizer)
        self._stops = StopFilter(prompt.stops)
        self._times = Lifecycle(prompt.arrival_s)
        self._outcome = "cancelled"
        self._submitted = False
        self._predicted = links.lengths.predict(
            prompt.model, prompt.max_tokens, exact=prompt.ignore_eos
        )

    async def start(self) -> None:
        """Waits for admission and sends the prompt.

        Raises:
            CapacityError: refused, or not admitted in time. PeerError: the bus failed.
        """
        try:
            admitted = await self._admission()
            self._times.admitted_s = time.monotonic()
            self._answer.instance_id = admitted.instance_id
            await self._links.bus.publish(subjects.run(admitted.instance_id), self._run())
        except RondoError as error:
            self._outcome = type(error).__name__
            raise

    async def pieces(self) -> AsyncIterator[Piece]:
        """The answer as it comes.

        Raises:
            InstanceLost, EngineError: it will not be completed.
        """
        finish: FinishReason | None = None
        try:
            while finish is None:
                settings = self._links.settings
                tokens = await self._answer.read(settings.stall_s, settings.patience_s)
                if tokens:
                    self._times.tokens(len(tokens), time.monotonic())
                text, finish = self._advance(tokens)
                if finish:
                    self._outcome = finish.value
                if text or finish:
                    yield Piece(text, self._times.num_tokens, finish)
        except RondoError as error:
            self._outcome = type(error).__name__
            raise

    def close(self) -> None:
        """Tells everybody that the answer is over, whether it is complete or not."""
        prompt, links = self._prompt, self._links
        links.answers.close(self._answer)
        if self._answer.finish is None and self._submitted:
            cancel = Cancel(request_id=prompt.request_id)
            macro_id = subjects.macro_id_of(prompt.model)
            links.answers.send(subjects.submit(macro_id), cancel)
            if self._answer.instance_id:
                links.answers.send(subjects.run(self._answer.instance_id), cancel)
        if self._outcome == FinishReason.STOP.value:
            links.lengths.observe(prompt.model, self._times.num_tokens)
        links.metrics.ended(prompt.model, self._outcome, len(prompt.tokens), self._times)

    def _advance(self, tokens: list[int]) -> tuple[str, FinishReason | None]:
        """Text of new tokens, and whether the answer is over."""
        finish = self._answer.finish
        last = finish is not None and self._answer.num_tokens == self._times.num_tokens
        if last and finish is FinishReason.STOP:
            tokens = tokens[:-1]  # the end token itself is no text
        text = self._text.push(tokens)
        if last:
            text += self._text.finish()
        text, stopped = self._stops.push(text)
        if stopped:
            return text, FinishReason.STOP
        if last:
            return text + self._stops.finish(), finish
        return text, None

    async def _admission(self) -> Admitted:
        prompt, settings = self._prompt, self._links.settings
        subject = subjects.submit(subjects.macro_id_of(prompt.model))
        heard_s = time.monotonic()
        while True:
            try:
                self._submitted = True
                reply = await self._links.bus.request(subject, self._submit(), RESUBMIT_S)
            except RequestTimeout:
                heard_s = time.monotonic()
            except (NoResponder, BusUnavailable):
                await asyncio.sleep(NO_COORDINATOR_PAUSE_S)
                if time.monotonic() - heard_s > settings.no_coordinator_timeout_s:
                    detail = f"No coordinator serves the model '{prompt.model}' now."
                    raise CapacityError("no_instances", detail, 1.0) from None
            else:
                if isinstance(reply, Admitted):
                    return reply
                if isinstance(reply, Rejected):
                    raise CapacityError(reply.reason, reply.detail, reply.retry_after_s)
            if time.monotonic() - prompt.arrival_s > settings.admission_timeout_s:
                raise CapacityError("overloaded", "The request was not admitted in time.", 1.0)

    def _submit(self) -> Submit:
        prompt = self._prompt
        return Submit(
            request_id=prompt.request_id,
            gateway_id=self._links.gateway_id,
            prompt_tokens=len(prompt.tokens),
            max_tokens=prompt.max_tokens,
            predicted_tokens=self._predicted,
            slo=prompt.slo,
            age_s=time.monotonic() - prompt.arrival_s,
        )

    def _run(self) -> Run:
        prompt = self._prompt
        return Run(
            request_id=prompt.request_id,
            gateway_id=self._links.gateway_id,
            prompt=pack_tokens(prompt.tokens),
            max_tokens=prompt.max_tokens,
            predicted_tokens=self._predicted,
            sampling=prompt.sampling,
            slo=prompt.slo,
            age_s=time.monotonic() - prompt.arrival_s,
            ignore_eos=prompt.ignore_eos,
        )
