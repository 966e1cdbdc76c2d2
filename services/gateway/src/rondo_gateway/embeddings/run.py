"""One HTTP request for embeddings: its inputs are computed side by side and put into one body.

Each input is a request of its own to the cluster, as a prompt of a completion is: it is admitted,
waits for its turn, and ends with its prefill. The token that ends it is nobody's.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from rondo.errors import EngineError
from rondo.types import Sampling, Slo
from rondo.wire.codec import unpack_floats
from rondo_gateway.attainment import CANCELLED
from rondo_gateway.attempt import Links, Prompt
from rondo_gateway.completions import STATUS_CLIENT_GONE
from rondo_gateway.disconnect import ClientGone, while_connected
from rondo_gateway.generation import Generation
from rondo_gateway.ledger import server_timing, slowest
from rondo_gateway.request_span import begin_request, end_request
from rondo_gateway.responses import Head, Kind
from rondo_gateway.text.assembler import TextRules
from rondo_gateway.text.model_files import ModelFiles

#: Inputs of one HTTP request that are with the cluster at a time; it may have thousands.
MAX_AT_ONCE = 64
SAMPLING = Sampling(temperature=0.0, embed=True)

_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class EmbeddingsJob:
    """One HTTP request, checked and tokenised; `inputs` are token ids."""

    model: ModelFiles
    inputs: Sequence[list[int]]
    slo: Slo
    base64: bool
    arrival_s: float
    traceparent: str = ""
    background: bool = False


class EmbeddingsRun:
    """Runs a job and answers it."""

    def __init__(self, links: Links, job: EmbeddingsJob) -> None:
        self._links = links
        self._job = job
        # Answers of this kind have no date.
        self._head = Head(f"embd-{uuid.uuid4().hex}", created=0, model=job.model.name)
        self._num_tokens = sum(len(ids) for ids in job.inputs)
        self._span = begin_request(Kind.EMBEDDINGS, job.model.name, job.traceparent, job.arrival_s)
        # Encoded one by one as they come, so that no large answer holds up the event loop.
        self._data = [msgspec.Raw()] * len(job.inputs)
        self._outcomes = [CANCELLED] * len(job.inputs)
        self._ledger: dict[str, float] = {}

    async def respond(self, request: Request) -> Response:
        """The whole answer.

        Raises:
            RondoError: one of the inputs could not be embedded; the others are given up.
        """
        try:
            await while_connected(request.receive, self._embed_all())
        except ClientGone:
            return Response(status_code=STATUS_CLIENT_GONE)
        finally:
            if self._span:
                used = (self._num_tokens, 0)
                end_request(
                    self._span, Kind.EMBEDDINGS, self._head, self._outcomes, used, self._ledger
                )
        content = _encode(
            {
                "object": "list",
                "data": self._data,
                "model": self._job.model.name,
                "usage": {"prompt_tokens": self._num_tokens, "total_tokens": self._num_tokens},
            }
        )
        headers = {"server-timing": server_timing(self._ledger)}
        return Response(content, media_type="application/json", headers=headers)

    async def _embed_all(self) -> None:
        rest = iter(range(len(self._job.inputs)))
        count = min(MAX_AT_ONCE, len(self._job.inputs))
        lanes = [asyncio.create_task(self._embed_some(rest)) for _ in range(count)]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _embed_some(self, indices: Iterator[int]) -> None:
        for index in indices:
            self._data[index] = self._shaped(index, await self._embed(index))

    async def _embed(self, index: int) -> bytes:
        """The packed embedding of an input.

        Raises:
            RondoError: there is none.
        """
        prompt = self._prompt(index)
        generation = Generation(self._links, prompt, self._job.model.tokenizer)
        try:
            await generation.start()
            async for _ in generation.pieces():
                pass
        finally:
            generation.close()
            self._outcomes[index] = generation.outcome
            self._ledger = slowest((self._ledger, generation.ledger()))
        if not generation.embedding:  # as from a worker of an older version
            raise EngineError("a prompt came back without its embedding", (prompt.request_id,))
        return generation.embedding

    def _prompt(self, index: int) -> Prompt:
        job = self._job
        return Prompt(
            request_id=f"{self._head.response_id}-{index}",
            model=job.model.name,
            tokens=job.inputs[index],
            max_tokens=1,
            sampling=SAMPLING,
            slo=job.slo,
            rules=TextRules(),
            ignore_eos=True,
            # What had to wait for others of the same request counts from now.
            arrival_s=job.arrival_s if index < MAX_AT_ONCE else time.monotonic(),
            span=self._span,
            background=job.background,
        )

    def _shaped(self, index: int, packed: bytes) -> msgspec.Raw:
        """An entry of the answer's `data`, as JSON."""
        vector = b64encode(packed).decode() if self._job.base64 else unpack_floats(packed)
        return msgspec.Raw(_encode({"object": "embedding", "index": index, "embedding": vector}))
