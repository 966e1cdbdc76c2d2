"""An open-loop client: every request leaves at its time, whatever became of the others."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

import aiohttp
import msgspec

from rondo.errors import PeerError
from rondo.types import Slo
from rondo_bench.parity.compare import MISSED, Served, served
from rondo_bench.sim.records import Arrival

#: Ids below are special in the models that ship.
FIRST_ID, LAST_ID = 16, 255
#: HTTP statuses of a refusal; the request then counts as missed.
REFUSED = (429, 503)


class AnswerWrong(PeerError):
    """A request failed, or its answer had another length than asked for."""


class _Choice(msgspec.Struct, gc=False):
    text: str = ""


class _Usage(msgspec.Struct, gc=False):
    completion_tokens: int


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: dict[str, object] | None = None


async def offer(
    url: str, model: str, arrivals: Sequence[Arrival], slo: Slo, seed: int
) -> list[Served]:
    """Offers all arrivals at their times, relative to now; what became of each, in order.

    Raises:
        AnswerWrong: an answer broke off or had too few tokens.
    """
    rng = random.Random(seed)
    bodies = [_body(model, arrival, slo, rng) for arrival in arrivals]
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        start_s = time.monotonic()

        async def one(arrival: Arrival, body: bytes) -> Served:
            at_s = start_s + arrival.at_s
            await asyncio.sleep(max(0.0, at_s - time.monotonic()))
            return await _ask(session, url, arrival, body, at_s)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(one(arrival, body))
                    for arrival, body in zip(arrivals, bodies, strict=True)
                ]
        except* aiohttp.ClientError as errors:
            failure: Exception = AnswerWrong(f"no answer: {errors.exceptions[0]}")
        except* AnswerWrong as errors:
            failure = AnswerWrong(str(errors.exceptions[0]))
        else:
            return [task.result() for task in tasks]
    raise failure


def _body(model: str, arrival: Arrival, slo: Slo, rng: random.Random) -> bytes:
    """Made before the first request leaves: encoding a long prompt takes milliseconds."""
    return msgspec.json.encode(
        {
            "model": model,
            "prompt": [rng.randint(FIRST_ID, LAST_ID) for _ in range(arrival.prompt_tokens)],
            "max_tokens": arrival.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "slo": {"ttft_ms": slo.ttft_s * 1e3, "tpot_ms": slo.tpot_s * 1e3},
        }
    )


async def _ask(
    session: aiohttp.ClientSession, url: str, arrival: Arrival, body: bytes, at_s: float
) -> Served:
    headers = {"content-type": "application/json"}
    first_s = last_s = None
    num_tokens = 0
    async with session.post(f"{url}/v1/completions", data=body, headers=headers) as response:
        if response.status in REFUSED:
            return MISSED
        if response.status != 200:
            raise AnswerWrong(f"status {response.status}: {(await response.text())[:200]}")
        async for line in response.content:
            now_s = time.monotonic()
            if not line.startswith(b"data: {"):
                continue
            chunk = msgspec.json.decode(line[6:], type=_Chunk)
            if chunk.error:
                raise AnswerWrong(str(chunk.error.get("message")))
            if chunk.usage:
                num_tokens = chunk.usage.completion_tokens
            elif chunk.choices and chunk.choices[0].text:
                first_s, last_s = first_s or now_s, now_s
    if num_tokens != arrival.output_tokens or first_s is None or last_s is None:
        raise AnswerWrong(f"{num_tokens} of {arrival.output_tokens} tokens")
    return served(at_s, first_s, last_s, num_tokens)
