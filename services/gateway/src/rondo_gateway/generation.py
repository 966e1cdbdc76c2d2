"""One answer from prompt ids to text, over as many instances as it takes; stop strings.

The gateway owns the request: however this ends, everybody else is told. When an instance is lost
amid an answer, another gets the prompt with the tokens so far and goes on; sampling depends on the
seed and the index of a token only, so the client sees the answer it would have seen.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tokenizers import Tokenizer

from rondo.errors import BusUnavailable, CapacityError, EngineError, InstanceLost, RondoError
from rondo.metrics.lifecycle import Lifecycle
from rondo.service import logs
from rondo.types import FinishReason
from rondo_gateway.attempt import Attempt, Links, Prompt
from rondo_gateway.text.detokenizer import IncrementalDetokenizer
from rondo_gateway.text.stops import StopFilter

log = logging.getLogger("rondo.gateway")

#: A request on which engines failed so often is taken for their reason.
MAX_ENGINE_ERRORS = 2
#: Longest pause before an instance is asked for again that a refusal may impose.
MAX_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of an answer; `finish` comes with the last one. `num_tokens` is the total so far."""

    text: str
    num_tokens: int
    finish: FinishReason | None


class Generation:
    """One answer. Call `start`, iterate `pieces`, and `close` in any case."""

    def __init__(self, links: Links, prompt: Prompt, tokenizer: Tokenizer) -> None:
        self._links = links
        self._prompt = prompt
        self._attempt = Attempt(links, prompt, 1, ())
        self._tokens: list[int] = []  # of the answer, over all attempts
        self._text = IncrementalDetokenizer(tokenizer)
        self._stops = StopFilter(prompt.stops)
        self._times = Lifecycle(prompt.arrival_s)
        self._engine_errors = 0
        self._outcome = "cancelled"

    async def start(self) -> None:
        """Waits for admission and sends the prompt.

        Raises:
            CapacityError: refused, or not admitted in time. PeerError: the bus failed.
        """
        try:
            await self._attempt.start()
            self._times.admitted_s = time.monotonic()
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
                tokens, ended = await self._read()
                if tokens:
                    self._tokens += tokens
                    self._times.tokens(len(tokens), time.monotonic())
                text, finish = self._advance(tokens, ended)
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
        self._attempt.close()
        if self._outcome == FinishReason.STOP.value:
            links.lengths.observe(prompt.model, self._times.num_tokens)
        links.metrics.ended(prompt.model, self._outcome, len(prompt.tokens), self._times)

    async def _read(self) -> tuple[list[int], FinishReason | None]:
        """Tokens that came, and how the answer ended if these are the last; resumes if need be."""
        while True:
            attempt = self._attempt
            try:
                tokens = await attempt.read()
            except (InstanceLost, EngineError) as error:
                if len(self._tokens) == self._prompt.max_tokens:  # only its end was lost
                    return [], FinishReason.LENGTH
                await self._resume(error)
                continue
            known = attempt.num_done + attempt.num_tokens
            complete = known == len(self._tokens) + len(tokens)
            return tokens, attempt.finish if complete else None

    async def _resume(self, error: InstanceLost | EngineError) -> None:
        """Finds another instance for the rest of the answer.

        Raises:
            InstanceLost, EngineError: `error`, when there was no end of it or no other instance.
        """
        settings = self._links.settings
        self._engine_errors += isinstance(error, EngineError)
        number = self._attempt.number + 1
        if number > settings.max_attempts or self._engine_errors >= MAX_ENGINE_ERRORS:
            raise error
        fields = {"request": self._prompt.request_id, "attempt": number, "done": len(self._tokens)}
        logs.warning(log, "resume", **fields, error=str(error))
        self._links.metrics.resumed.inc()
        deadline_s = time.monotonic() + settings.resume_timeout_s
        while True:
            self._attempt.close()
            self._attempt = Attempt(self._links, self._prompt, number, self._tokens)
            try:
                async with asyncio.timeout_at(_loop_time(deadline_s)):
                    await self._attempt.start()
                return
            except TimeoutError:
                raise error from None
            except (CapacityError, BusUnavailable) as refusal:
                pause_s = _pause_s(refusal)
                if pause_s is None or time.monotonic() + pause_s > deadline_s:
                    raise error from refusal
                await asyncio.sleep(pause_s)

    def _advance(
        self, tokens: list[int], ended: FinishReason | None
    ) -> tuple[str, FinishReason | None]:
        """Text of new tokens, and whether the answer is over."""
        if ended is FinishReason.STOP:
            tokens = tokens[:-1]  # the end token itself is no text
        text = self._text.push(tokens)
        if ended:
            text += self._text.finish()
        text, stopped = self._stops.push(text)
        if stopped:
            return text, FinishReason.STOP
        if ended:
            return text + self._stops.finish(), ended
        return text, None


def _pause_s(refusal: CapacityError | BusUnavailable) -> float | None:
    """How long to wait before asking again; None: it will not help."""
    if isinstance(refusal, BusUnavailable):
        return MAX_PAUSE_S
    return refusal.retry_after_s and min(refusal.retry_after_s, MAX_PAUSE_S)


def _loop_time(monotonic_s: float) -> float:
    """An instant of time.monotonic on the event loop's clock."""
    return asyncio.get_running_loop().time() + monotonic_s - time.monotonic()
