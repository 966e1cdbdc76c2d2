"""One HTTP request: its choices are generated side by side and put into OpenAI's shape."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from rondo.errors import RondoError
from rondo.types import FinishReason
from rondo_gateway.attempt import Links, Prompt
from rondo_gateway.disconnect import ClientGone, while_connected
from rondo_gateway.errors import sse_error_frame, to_api_error
from rondo_gateway.event_stream import EventStream
from rondo_gateway.generation import Generation, Piece
from rondo_gateway.limits import output_limit
from rondo_gateway.responses import (
    DONE,
    Choice,
    ChunkEncoder,
    Kind,
    chat_completion,
    text_completion,
    usage,
)
from rondo_gateway.schemas import GenerationPlan
from rondo_gateway.text.model_files import ModelFiles

#: What a client that went away would have got; nobody sees it (nginx's number for it).
STATUS_CLIENT_GONE = 499


@dataclass(frozen=True, slots=True)
class Job:
    """One HTTP request, checked and tokenised. `prompts` are token ids, one or several."""

    kind: Kind
    model: ModelFiles
    max_model_len: int
    prompts: Sequence[list[int]]
    prompt_param: str
    plan: GenerationPlan
    arrival_s: float


class Completion:
    """Runs a job and answers it."""

    def __init__(self, links: Links, job: Job) -> None:
        prefix = "chatcmpl" if job.kind is Kind.CHAT else "cmpl"
        self._id = f"{prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._job = job
        self._prompt_tokens = sum(len(prompt) for prompt in job.prompts)
        prompts = self._split(job)
        self._generations = [Generation(links, p, job.model.tokenizer) for p in prompts]
        self._num_tokens = [0] * len(self._generations)

    def _split(self, job: Job) -> list[Prompt]:
        """One prompt a choice, in the order of the choices' indices.

        Raises:
            ApiError: prompt and answer do not fit into the context.
        """
        plan = job.plan
        limits = [
            output_limit(
                len(prompt),
                plan.max_tokens,
                job.max_model_len,
                default=plan.default_max_tokens,
                prompt_param=job.prompt_param,
            )
            for prompt in job.prompts
        ]
        per_prompt = len(plan.samplings) // len(job.prompts)
        return [
            Prompt(
                request_id=f"{self._id}-{index}",
                model=job.model.name,
                tokens=job.prompts[index // per_prompt],
                max_tokens=limits[index // per_prompt],
                sampling=sampling,
                slo=plan.slo,
                stops=plan.stops,
                ignore_eos=plan.ignore_eos,
                arrival_s=job.arrival_s,
            )
            for index, sampling in enumerate(plan.samplings)
        ]

    async def respond(self, request: Request) -> Response:
        """The whole answer, or the stream of it once every choice was admitted.

        Raises:
            RondoError: no choice has begun; the error handlers answer.
        """
        try:
            await while_connected(request.receive, self._start())
            if self._job.plan.stream:
                return EventStream(self._frames(), self._close)
            choices = await while_connected(request.receive, self._collect_all())
        except ClientGone:
            self._close()
            return Response(status_code=STATUS_CLIENT_GONE)
        except BaseException:
            self._close()
            raise
        self._close()
        body = chat_completion if self._job.kind is Kind.CHAT else text_completion
        content = body(self._id, self._job.model.name, self._created, choices, self._usage())
        return Response(content, media_type="application/json")

    async def _start(self) -> None:
        """Admits all choices; when one is refused, the others are given up."""
        tasks = [asyncio.create_task(one.start()) for one in self._generations]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _collect_all(self) -> list[Choice]:
        collectors = [self._collect(index) for index in range(len(self._generations))]
        return list(await asyncio.gather(*collectors))

    async def _collect(self, index: int) -> Choice:
        texts: list[str] = []
        finish = FinishReason.LENGTH
        async for piece in self._generations[index].pieces():
            texts.append(piece.text)
            self._num_tokens[index] = piece.num_tokens
            finish = piece.finish or finish
        return Choice(index, "".join(texts), finish)

    async def _frames(self) -> AsyncGenerator[bytes]:
        plan = self._job.plan
        encoder = ChunkEncoder(
            self._job.kind,
            self._id,
            self._job.model.name,
            self._created,
            include_usage=plan.include_usage,
        )
        try:
            if self._job.kind is Kind.CHAT:
                yield b"".join(encoder.role(i) for i in range(len(self._generations)))
            async for index, piece in self._pieces():
                self._num_tokens[index] = piece.num_tokens
                frame = encoder.content(index, piece.text) if piece.text else b""
                yield frame + encoder.finish(index, piece.finish) if piece.finish else frame
            if plan.include_usage:
                yield encoder.usage(self._usage())
            yield DONE
        except RondoError as error:
            yield sse_error_frame(to_api_error(error))

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Pieces of all choices in order of arrival; a single choice without detour."""
        if len(self._generations) == 1:
            async for piece in self._generations[0].pieces():
                yield 0, piece
            return
        queue: asyncio.Queue[tuple[int, Piece] | RondoError] = asyncio.Queue(maxsize=64)
        pumps = [
            asyncio.create_task(self._pump(index, queue)) for index in range(len(self._generations))
        ]
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

    def _usage(self) -> dict[str, int]:
        return usage(self._prompt_tokens, sum(self._num_tokens))

    def _close(self) -> None:
        for generation in self._generations:
            generation.close()
