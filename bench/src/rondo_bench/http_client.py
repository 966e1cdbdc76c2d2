"""A closed-loop client over HTTP: streams completions and stamps every event."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence

import aiohttp

from rondo.errors import PeerError
from rondo.metrics.lifecycle import Lifecycle
from rondo_bench.workload import Item


class StreamFailed(PeerError):
    """A stream ended with an error or short of its tokens."""


async def run_http(
    url: str, model: str, items: Sequence[Item], concurrency: int
) -> list[Lifecycle]:
    """Keeps `concurrency` streams open until all items are done; their stamps.

    Raises:
        StreamFailed: a request was refused, failed, or had too few tokens.
    """
    queue = list(reversed(items))
    times: list[Lifecycle] = []
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def client() -> None:
            while queue:
                times.append(await _stream(session, url, model, queue.pop()))

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(client())
    return times


async def _stream(session: aiohttp.ClientSession, url: str, model: str, item: Item) -> Lifecycle:
    body = {
        "model": model,
        "prompt": list(item.prompt),
        "max_tokens": item.output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    data = json.dumps(body)
    headers = {"content-type": "application/json"}
    times = Lifecycle(time.monotonic())
    num_tokens = 0
    async with session.post(f"{url}/v1/completions", data=data, headers=headers) as response:
        if response.status != 200:
            raise StreamFailed(f"status {response.status}: {(await response.text())[:200]}")
        async for line in response.content:
            now_s = time.monotonic()
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise StreamFailed(chunk["error"]["message"])
            if chunk.get("usage"):
                num_tokens = chunk["usage"]["completion_tokens"]
            elif chunk["choices"][0]["text"]:
                times.tokens(1, now_s, keep_gaps=True)
    if num_tokens != item.output_tokens:
        raise StreamFailed(f"{num_tokens} of {item.output_tokens} tokens")
    return times
