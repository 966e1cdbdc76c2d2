"""A closed loop of clients that know what they must get."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import aiohttp

from rondo_bench.workload import Item


class Ending(Enum):
    """How a request ended, for its client."""

    COMPLETED = "completed"
    TYPED_ERROR = "typed_errors"
    BROKEN = "broken_connections"
    HUNG = "hung"


@dataclass(slots=True)
class Outcome:
    """What came of one request; `num_tokens` as its usage says, None where it did not come."""

    item: Item
    began_s: float
    ending: Ending = Ending.HUNG
    text: str = ""
    num_tokens: int | None = None
    first_token_s: float | None = None
    error: str = ""


async def run_clients(
    url: Callable[[], str],
    model: str,
    items: Sequence[Item],
    concurrency: int,
    timeout_s: float,
    until_s: float | None = None,
) -> list[Outcome]:
    """Asks for each item once or, until the instant `until_s`, for all of them again and again.

    Args:
        url: where the API is now; asked before each request. timeout_s: after which one hangs.
    """
    outcomes: list[Outcome] = []
    next_item = 0
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def client() -> None:
            nonlocal next_item
            while (time.monotonic() < until_s) if until_s else (next_item < len(items)):
                item = items[next_item % len(items)]
                next_item += 1
                outcome = Outcome(item, time.monotonic())
                outcomes.append(outcome)
                await _ask(session, f"{url()}/v1/completions", model, outcome, timeout_s)

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(client())
    return outcomes


async def _ask(
    session: aiohttp.ClientSession, url: str, model: str, outcome: Outcome, timeout_s: float
) -> None:
    body = {
        "model": model,
        "prompt": list(outcome.item.prompt),
        "max_tokens": outcome.item.output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    try:
        async with asyncio.timeout(timeout_s), session.post(url, json=body) as response:
            if response.status != 200:
                outcome.ending, outcome.error = Ending.TYPED_ERROR, (await response.text())[:200]
                await asyncio.sleep(0.2)  # as a client that heeds Retry-After, though shorter
                return
            await _read(response, outcome)
    except TimeoutError:
        outcome.ending = Ending.HUNG
    except (aiohttp.ClientError, OSError) as error:
        outcome.ending, outcome.error = Ending.BROKEN, f"{type(error).__name__}: {error}"
        await asyncio.sleep(0.2)


async def _read(response: aiohttp.ClientResponse, outcome: Outcome) -> None:
    outcome.ending = Ending.BROKEN  # unless it says that it is done
    async for line in response.content:
        if line.startswith(b"data: [DONE]"):
            if outcome.ending is Ending.BROKEN:
                outcome.ending = Ending.COMPLETED
            return
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        if "error" in chunk:
            outcome.ending, outcome.error = Ending.TYPED_ERROR, chunk["error"]["message"]
            return
        if chunk.get("usage"):
            outcome.num_tokens = chunk["usage"]["completion_tokens"]
        elif text := chunk["choices"][0]["text"]:
            outcome.first_token_s = outcome.first_token_s or time.monotonic()
            outcome.text += text
