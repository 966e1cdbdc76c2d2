"""One answer from prompt ids to text, over as many instances as it takes; stop strings.

The gateway owns the request: however this ends, everybody else is told. When an instance is lost
amid an answer, another gets the prompt with the tokens so far and goes on; sampling depends on the
seed and the index of a token only, so the client sees the answer it would have seen.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
from tokenizers import Tokenizer

from rondo.errors import BusUnavailable, CapacityError, EngineError, InstanceLost, RondoError
from rondo.logprobs import Logprobs, TokenLogprobs
from rondo.metrics.lifecycle import Lifecycle
from rondo.service import logs
from rondo.types import FinishReason
from rondo.wire.messages import FirstToken
from rondo_gateway.attainment import CANCELLED
from rondo_gateway.attempt import Attempt, Links, Prompt
from rondo_gateway.background import placed
from rondo_gateway.ledger import ledger_of
from rondo_gateway.metrics import EndedAnswer
from rondo_gateway.security.spent import spend
from rondo_gateway.text.assembler import AnswerText, Scored

log = logging.getLogger("rondo.gateway")

#: A request on which engines failed so often is taken for their reason.
MAX_ENGINE_ERRORS = 2
#: Longest pause before an instance is asked for again that a refusal may impose.
MAX_PAUSE_S = 1.0

#: Shows new text of an answer of so many tokens so far; whether it takes more.
Show = Callable[[str, int], bool]


class Piece(msgspec.Struct, frozen=True, gc=False):
    """New text of an answer; `finish` comes with the last one. `num_tokens` is the total so far."""

    text: str
    num_tokens: int
    finish: FinishReason | None
    scored: tuple[Scored, ...] = ()


class Generation:
    """One answer. Call `start`, iterate `pieces`, and `close` in any case."""

    def __init__(self, links: Links, prompt: Prompt, tokenizer: Tokenizer) -> None:
        self._links = links
        self._prompt = prompt
        self._attempt = Attempt(links, prompt, 1, ())
        self._tokens: list[int] = []  # of the answer, over all attempts
        self._text = AnswerText(tokenizer, prompt.rules)
        self._logprobs: list[TokenLogprobs] = []  # of the tokens read last
        self._times = Lifecycle(prompt.arrival_s)
        self._first: FirstToken | None = None
        self._submitted_s: float | None = None
        self._engine_errors = 0
        self._outcome = CANCELLED
        self._show: Show | None = None

    async def start(self) -> None:
        """Waits for admission and sends the prompt.

        Raises:
            CapacityError: refused, or not admitted in time. PeerError: the bus failed.
        """
        try:
            self._submitted_s = time.monotonic()
            await self._attempt.start()
            self._times.admitted_s = time.monotonic()
            placed()
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
                if self._show is not None:
                    self._attempt.relay(self._relayed)
                tokens, ended = await self._read()
                part = self._text.push(tokens, self._logprobs, ended)
                finish = part.finish
                if part.num_used:
                    self._tokens += tokens[: part.num_used]
                    self._times.tokens(part.num_used, time.monotonic())
                if finish:
                    self._outcome = finish.value
                if part.text or part.scored or finish:
                    yield Piece(part.text, self._times.num_tokens, finish, part.scored)
        except RondoError as error:
            self._outcome = type(error).__name__
            raise

    def relay(self, show: Show) -> None:
        """Has text shown the moment it comes, while `pieces` waits, where nothing is to be done
        but to show it; it does not come as a piece then.

        Where `show` returns False, `pieces` goes on by itself until it is asked for the next.
        """
        if self._text.plain:
            self._show = show

    def _relayed(self, tokens: Sequence[int]) -> bool:
        assert self._show is not None  # or nobody would relay
        text = self._text.add(tokens)
        self._tokens += tokens
        self._times.tokens(len(tokens), time.monotonic())
        return self._show(text, self._times.num_tokens) if text else True

    def close(self) -> None:
        """Tells everybody that the answer is over, whether it is complete or not."""
        prompt, links = self._prompt, self._links
        self._attempt.close()
        self._observe_length()
        # The token beside an embedding is nobody's answer.
        spend(len(prompt.tokens) + (0 if prompt.sampling.embed else self._times.num_tokens))
        links.metrics.ended(
            EndedAnswer(
                model=prompt.model,
                outcome=self._outcome,
                prompt_tokens=len(prompt.tokens),
                slo=prompt.slo,
                times=self._times,
                submitted_s=self._submitted_s,
                first=self._first,
            )
        )
        if links.news.watched:
            instance_id, num_tokens = self._attempt.instance_id, self._times.num_tokens
            links.news.tell(links, prompt, instance_id, self._outcome, num_tokens, self.ledger())

    def _observe_length(self) -> None:
        """An answer that cannot end by itself, or was not to end yet, tells of no other."""
        prompt, outcome = self._prompt, self._outcome
        free = not (prompt.ignore_eos or prompt.sampling.embed)
        if free and outcome in (FinishReason.STOP, FinishReason.LENGTH):
            num_tokens, finish = self._times.num_tokens, FinishReason(outcome)
            lengths, limit = self._links.lengths, prompt.max_tokens
            lengths.observe(prompt.model, prompt.tokens, limit, num_tokens, finish)

    @property
    def outcome(self) -> str:
        """How it ended: a finish reason, `cancelled`, or an error's class; so far `cancelled`."""
        return self._outcome

    @property
    def prompt_logprobs(self) -> Logprobs | None:
        """Of all tokens of the prompt but the first; there with the answer's first token."""
        return self._first.prompt if self._first else None

    @property
    def embedding(self) -> bytes:
        """Of the prompt, packed (`rondo.wire.codec.pack_floats`); there with the first token of
        an answer that asks for it."""
        return self._first.embedding if self._first else b""

    async def first_token(self) -> None:
        """Waits until the instance has answered: so what it refuses is known before a stream.

        Raises:
            ApiError: it does not do what the request asks for.
        """
        await self._attempt.first_token()

    def ledger(self) -> dict[str, float]:
        """Where the time went, in ms; see docs/api.md."""
        return ledger_of(self._times, self._submitted_s, self._first)

    def _rest(self) -> Prompt:
        """The prompt for another try: its own logprobs are asked for once."""
        if self._first is None or self._prompt.sampling.prompt_logprobs is None:
            return self._prompt
        sampling = msgspec.structs.replace(self._prompt.sampling, prompt_logprobs=None)
        return dataclasses.replace(self._prompt, sampling=sampling)

    async def _read(self) -> tuple[list[int], FinishReason | None]:
        """Tokens that came, and how the answer ended if these are the last; resumes if need be."""
        while True:
            attempt = self._attempt
            try:
                tokens = await attempt.read()
            except (InstanceLost, EngineError) as error:
                if len(self._tokens) == self._prompt.max_tokens:  # only its end was lost
                    return [], FinishReason.LENGTH
                self._first = self._first or attempt.first
                await self._resume(error)
                continue
            self._first = self._first or attempt.first
            self._logprobs = attempt.take_logprobs()
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
            self._attempt = Attempt(self._links, self._rest(), number, self._tokens)
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


def _pause_s(refusal: CapacityError | BusUnavailable) -> float | None:
    """How long to wait before asking again; None: it will not help."""
    if isinstance(refusal, BusUnavailable):
        return MAX_PAUSE_S
    return refusal.retry_after_s and min(refusal.retry_after_s, MAX_PAUSE_S)


def _loop_time(monotonic_s: float) -> float:
    """An instant of time.monotonic on the event loop's clock."""
    return asyncio.get_running_loop().time() + monotonic_s - time.monotonic()
