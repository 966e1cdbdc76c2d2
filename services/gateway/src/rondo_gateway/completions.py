"""One HTTP request: its choices are generated side by side and put into OpenAI's shape."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rondo.errors import RondoError
from rondo_gateway.attempt import Links
from rondo_gateway.choices import ChoiceCollector, ChoiceShaper, Echo, Shaped
from rondo_gateway.disconnect import ClientGone, while_connected
from rondo_gateway.errors import sse_error_frame, to_api_error
from rondo_gateway.event_stream import EventStream
from rondo_gateway.generation import Generation, Piece
from rondo_gateway.job import Job
from rondo_gateway.ledger import server_timing, slowest
from rondo_gateway.request_span import begin_request, end_request
from rondo_gateway.responses import (
    DONE,
    Choice,
    ChunkEncoder,
    Head,
    Kind,
    chat_completion,
    text_completion,
    usage,
)
from rondo_gateway.scores import ScoreShaper

#: What a client that went away would have got; nobody sees it (nginx's number for it).
STATUS_CLIENT_GONE = 499


class Completion:
    """Runs a job and answers it."""

    def __init__(self, links: Links, job: Job) -> None:
        prefix = "chatcmpl" if job.kind is Kind.CHAT else "cmpl"
        self._head = Head(
            f"{prefix}-{uuid.uuid4().hex}", int(time.time()), job.model.name, job.model.fingerprint
        )
        self._job = job
        self._prompt_tokens = sum(len(prompt) for prompt in job.prompts)
        self._span = begin_request(job.kind, job.model.name, job.traceparent, job.arrival_s)
        prompts = job.candidates(self._head.response_id, self._span, links.lengths)
        self._generations = [Generation(links, p, job.model.tokenizer) for p in prompts]
        self._num_tokens = [0] * len(self._generations)
        self._stream: EventStream | None = None

    async def respond(self, request: Request) -> Response:
        """The whole answer, or the stream of it once every choice was admitted.

        Raises:
            RondoError: no choice has begun; the error handlers answer.
        """
        try:
            await while_connected(request.receive, self.start())
            if self._job.plan.stream:
                self._stream = EventStream(self._frames(), self.close, self.timing())
                return self._stream
            choices = await while_connected(request.receive, self._collect_all())
        except ClientGone:
            self.close()
            return Response(status_code=STATUS_CLIENT_GONE)
        except BaseException:
            self.close()
            raise
        self.close()
        body = chat_completion if self._job.kind is Kind.CHAT else text_completion
        content = body(self._head, choices, self.usage())
        return Response(content, media_type="application/json", headers=self.timing())

    async def start(self) -> None:
        """Admits all choices; when one is refused, the others are given up.

        Raises:
            RondoError: it cannot be answered; `close` all the same.
        """
        tasks = [asyncio.create_task(self._begin(one)) for one in self._generations]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _begin(self, generation: Generation) -> None:
        await generation.start()
        sampling = self._job.plan.samplings[0]
        if self._job.plan.stream and (sampling.grammar or sampling.logprobs is not None):
            # Not every engine does this; a refusal is to be a 400 and not the end of a stream.
            await generation.first_token()

    async def _collect_all(self) -> list[Choice]:
        """All candidates are generated; the best of each prompt are kept, in order of quality."""
        collectors = [self._collect(index) for index in range(len(self._generations))]
        found = list(await asyncio.gather(*collectors))
        plan = self._job.plan
        per_prompt = self._job.per_prompt
        kept: list[ChoiceCollector] = []
        for first in range(0, len(found), per_prompt):
            candidates = list(range(first, first + per_prompt))
            if per_prompt > plan.kept:
                candidates.sort(key=lambda i: -found[i].sum_logprob / max(1, self._num_tokens[i]))
            kept += [found[i] for i in candidates[: plan.kept]]
        return [collector.choice(index) for index, collector in enumerate(kept)]

    async def _collect(self, index: int) -> ChoiceCollector:
        collector, shaper = ChoiceCollector(), self._shaper(index)
        generation = self._generations[index]
        async for piece in generation.pieces():
            self._count(index, piece)
            collector.take(piece, shaper.shape(piece, generation.prompt_logprobs))
        return collector

    async def _frames(self) -> AsyncGenerator[bytes]:
        plan = self._job.plan
        encoder = ChunkEncoder(self._job.kind, self._head, include_usage=plan.include_usage)
        try:
            if self._job.kind is Kind.CHAT:
                yield b"".join(encoder.role(i) for i in range(len(self._generations)))
            self._relay(encoder)
            async for index, shaped in self.shaped():
                used = self.usage() if plan.continuous_usage else None
                if frame := encoder.shaped(index, shaped.deltas, shaped.logprobs, used):
                    yield frame
                if shaped.finish:
                    yield encoder.finish(index, shaped.finish, used)
            if plan.include_usage:
                yield encoder.usage(self.usage(final=True))
            yield DONE
        except RondoError as error:
            yield sse_error_frame(to_api_error(error))

    def _relay(self, encoder: ChunkEncoder) -> None:
        """Of a single choice whose text is not shaped, what is new goes straight to the client."""
        stream, plan = self._stream, self._job.plan
        shaped = plan.tools or plan.echo or plan.logprobs is not None or plan.continuous_usage
        if stream is None or not stream.takes or shaped or len(self._generations) > 1:
            return
        chunk = encoder.plain(0)

        def show(text: str, num_tokens: int) -> bool:
            self._num_tokens[0] = num_tokens
            return stream.put(chunk(text))

        self._generations[0].relay(show)

    async def shaped(self) -> AsyncIterator[tuple[int, Shaped]]:
        """What comes of each choice, by its index, in order of arrival.

        Raises:
            RondoError: it will not be completed.
        """
        shapers = [self._shaper(index) for index in range(len(self._generations))]
        if len(shapers) == 1:  # without detour
            generation, shaper = self._generations[0], shapers[0]
            async for piece in generation.pieces():
                self._count(0, piece)
                yield 0, shaper.shape(piece, generation.prompt_logprobs)
            return
        async for index, piece in self._pieces():
            self._count(index, piece)
            prompt = self._generations[index].prompt_logprobs
            yield index, shapers[index].shape(piece, prompt)

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Pieces of all choices in order of arrival."""
        queue: asyncio.Queue[tuple[int, Piece] | RondoError] = asyncio.Queue(maxsize=64)
        choices = range(len(self._generations))
        pumps = [asyncio.create_task(self._pump(index, queue)) for index in choices]
        try:
            open_choices = len(pumps)
            while open_choices:
                item = await queue.get()
                if isinstance(item, RondoError):
                    raise item
                yield item
                open_choices -= item[1].finish is not None
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, index: int, queue: asyncio.Queue[tuple[int, Piece] | RondoError]) -> None:
        try:
            async for piece in self._generations[index].pieces():
                await queue.put((index, piece))
        except RondoError as error:
            await queue.put(error)

    def _shaper(self, index: int) -> ChoiceShaper:
        job, plan = self._job, self._job.plan
        scores = echo = None
        if plan.logprobs is not None:
            scores = ScoreShaper(job.model.tokenizer, plan.logprobs, as_ids=plan.tokens_as_ids)
        if plan.echo:
            number = index // job.per_prompt
            echo = Echo(job.texts[number], job.prompts[number])
        return ChoiceShaper(job.kind, plan, scores, echo)

    def _count(self, index: int, piece: Piece) -> None:
        self._num_tokens[index] = 0 if self._job.plan.max_tokens == 0 else piece.num_tokens

    def usage(self, *, final: bool = False) -> dict[str, Any]:
        """The usage so far; at the end with the ledger, if asked for."""
        used = usage(self._prompt_tokens, sum(self._num_tokens))
        if self._job.plan.include_latency and (final or not self._job.plan.stream):
            used["latency"] = self._ledger()
        return used

    def _ledger(self) -> dict[str, float]:
        return slowest([generation.ledger() for generation in self._generations])

    def timing(self) -> dict[str, str]:
        """Response headers that say where the time went so far."""
        return {"server-timing": server_timing(self._ledger())}

    def close(self) -> None:
        """Ends all choices, complete or not; to be called in any case."""
        for generation in self._generations:
            generation.close()
        if self._span:
            outcomes = [generation.outcome for generation in self._generations]
            num_tokens = (self._prompt_tokens, sum(self._num_tokens))
            end_request(
                self._span, self._job.kind, self._head, outcomes, num_tokens, self._ledger()
            )
