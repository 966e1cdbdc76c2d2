"""A closed loop of clients that take down what they get, and when."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import aiohttp

from rondo_bench.chaos.asks import Answer, Ask, Kind

#: Pause after a refusal, as of a client that heeds Retry-After, though shorter.
PAUSE_S = 0.2
#: Pause before the next try where nobody listens.
CONNECT_PAUSE_S = 0.05


class Ending(Enum):
    """How a request ended, for its client."""

    COMPLETED = "completed"
    TYPED_ERROR = "typed_errors"
    BROKEN = "broken_connections"
    HUNG = "hung"


@dataclass(slots=True)
class Outcome:
    """What came of one request; instants are of time.monotonic.

    Attributes:
        refused: connections that nobody took, before one was.
        flaw: what was wrong with the shape of the answer, e.g. something after its ending.
        gaps_s: between pieces of text of a plain stream.
    """

    ask: Ask
    began_s: float
    ended_s: float = 0.0
    ending: Ending = Ending.HUNG
    texts: list[str] = field(default_factory=list)
    finishes: list[str] = field(default_factory=list)
    num_tokens: int | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    error: str = ""
    flaw: str = ""
    refused: int = 0

    def __post_init__(self) -> None:
        self.texts = [""] * self.ask.num_choices
        self.finishes = [""] * self.ask.num_choices

    @property
    def answer(self) -> Answer:
        """What came."""
        return Answer(tuple(self.texts), tuple(self.finishes), self.num_tokens or 0)


@dataclass(frozen=True, slots=True)
class Service:
    """Where clients ask.

    Attributes:
        url: of the API, which all gateways share.
        timeout_s: a request that takes longer hangs.
    """

    url: str
    model: str
    timeout_s: float


async def run_clients(
    service: Service, asks: Sequence[Ask], concurrency: int, more: Callable[[int], bool]
) -> list[Outcome]:
    """Asks in turn, round after round, while `more(requests so far)`; waits for what is underway.

    Returns:
        One outcome for each request, in order of asking.
    """
    outcomes: list[Outcome] = []
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def client() -> None:
            while more(len(outcomes)):
                outcome = Outcome(asks[len(outcomes) % len(asks)], time.monotonic())
                outcomes.append(outcome)
                await _ask(session, service, outcome)

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(client())
    return outcomes


async def _ask(session: aiohttp.ClientSession, service: Service, outcome: Outcome) -> None:
    body = outcome.ask.body(service.model)
    try:
        async with asyncio.timeout(service.timeout_s):
            await _try(session, service, outcome, body)
    except TimeoutError:
        outcome.ending = Ending.HUNG
    except (aiohttp.ClientError, OSError) as error:
        outcome.ending, outcome.error = Ending.BROKEN, f"{type(error).__name__}: {error}"
    outcome.ended_s = time.monotonic()
    if outcome.ending is not Ending.COMPLETED:
        await asyncio.sleep(PAUSE_S)


async def _try(
    session: aiohttp.ClientSession, service: Service, outcome: Outcome, body: dict[str, Any]
) -> None:
    """Asks until somebody takes the connection."""
    while True:
        try:
            async with session.post(f"{service.url}/v1/completions", json=body) as response:
                if response.status != 200:
                    outcome.ending, outcome.error = Ending.TYPED_ERROR, await _problem(response)
                elif outcome.ask.streamed:
                    await _read_stream(response, outcome)
                else:
                    _take_whole(outcome, await response.json())
                return
        except aiohttp.ClientConnectorError:
            outcome.refused += 1
            await asyncio.sleep(CONNECT_PAUSE_S)


async def _problem(response: aiohttp.ClientResponse) -> str:
    text = await response.text()
    try:
        error = json.loads(text)["error"]
        return f"{response.status} {error['code'] or error['type']}"
    except (ValueError, KeyError, TypeError):
        return f"{response.status} {text[:100]}"


def _take_whole(outcome: Outcome, body: dict[str, Any]) -> None:
    for choice in body["choices"]:
        outcome.texts[choice["index"]] = choice["text"]
        outcome.finishes[choice["index"]] = choice["finish_reason"] or ""
    outcome.num_tokens = body["usage"]["completion_tokens"]
    outcome.ending = Ending.COMPLETED


async def _read_stream(response: aiohttp.ClientResponse, outcome: Outcome) -> None:
    """Reads to the end of the connection: what follows an ending is a flaw."""
    outcome.ending = Ending.BROKEN  # unless it says that it is done
    async for line in response.content:
        if not line.strip():
            continue
        if outcome.ending is not Ending.BROKEN:
            outcome.flaw = outcome.flaw or f"after the ending: {line[:60]!r}"
        elif line.startswith(b"data: [DONE]"):
            outcome.ending = Ending.COMPLETED
            if not all(outcome.finishes):
                outcome.flaw = "done without a finish reason"
        elif line.startswith(b"data: {"):
            _take_chunk(outcome, json.loads(line[6:]))
        else:
            outcome.flaw = f"no event: {line[:60]!r}"


def _take_chunk(outcome: Outcome, chunk: dict[str, Any]) -> None:
    if "error" in chunk:
        error = chunk["error"]
        outcome.ending, outcome.error = Ending.TYPED_ERROR, f"in stream: {error['code']}"
        return
    if chunk.get("usage"):
        outcome.num_tokens = chunk["usage"]["completion_tokens"]
    for choice in chunk["choices"]:
        index, text = choice["index"], choice["text"]
        if outcome.finishes[index]:
            outcome.flaw = "a choice went on after its finish reason"
        outcome.texts[index] += text
        outcome.finishes[index] = choice["finish_reason"] or ""
        if text:
            _stamp(outcome, time.monotonic())


def _stamp(outcome: Outcome, now_s: float) -> None:
    if outcome.last_token_s is None:
        outcome.first_token_s = now_s
    elif outcome.ask.kind is Kind.STREAM:
        outcome.gaps_s.append(now_s - outcome.last_token_s)
    outcome.last_token_s = now_s
