"""`rondo ask`: a question over HTTP, the streamed answer, and how fast it came."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from rondo.errors import PeerError
from rondo.metrics.lifecycle import Lifecycle

#: The API key of whoever asks, where gateways want one: the first of these that is set.
KEY_VARIABLES = ("RONDO_API_KEY", "OPENAI_API_KEY")


class ApiFailed(PeerError):
    """The API refused a request, or ended its stream with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the API answered {status}: {message}")
        self.status = status


async def stream(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a streamed answer.

    Raises:
        ApiFailed: an error status, or an error inside the stream.
    """
    async with session.post(url, json={**body, "stream": True}) as response:
        if response.status != 200:
            raise ApiFailed(response.status, error_message(await response.text()))
        async for line in response.content:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            chunk: dict[str, Any] = json.loads(line[6:])
            if "error" in chunk:
                raise ApiFailed(response.status, chunk["error"]["message"])
            yield chunk


async def ask(api_url: str, model: str, question: str) -> None:
    """Prints the answer as it comes, then TTFT and tokens/s."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "stream_options": {"include_usage": True},
    }
    print(f"\n> {question}", flush=True)
    times = Lifecycle(time.monotonic())
    num_tokens = 0
    async with aiohttp.ClientSession(headers=authorization()) as session:
        async for chunk in stream(session, f"{api_url}/v1/chat/completions", body):
            if chunk.get("usage"):
                num_tokens = chunk["usage"]["completion_tokens"]
            for choice in chunk["choices"]:
                if text := choice["delta"].get("content"):
                    times.tokens(1, time.monotonic())
                    print(text, end="", flush=True)
    total_s = time.monotonic() - times.arrival_s
    ttft_ms = (times.ttft_s or total_s) * 1e3
    print(f"\n  [TTFT {ttft_ms:.1f} ms, {num_tokens} tokens, {num_tokens / total_s:.1f} tokens/s]")


def authorization() -> dict[str, str]:
    """Headers with the user's key, for a cluster that asks for one; see `KEY_VARIABLES`."""
    key = next(filter(None, map(os.environ.get, KEY_VARIABLES)), None)
    return {"authorization": f"Bearer {key}"} if key else {}


def error_message(text: str) -> str:
    """What an answer says that is no success; the beginning of its text if that is not ours."""
    try:
        message: str = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return text[:200]
    return message
