"""Clients that ask again and again, and know what they must get."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import aiohttp

NUM_CLIENTS = 12
NUM_PROMPTS = 16
MAX_TOKENS = 120


def body(number: int, max_tokens: int = MAX_TOKENS) -> dict[str, Any]:
    """A request of /v1/completions that is streamed, the same for the same number."""
    return {
        "model": "rondo-tiny",
        "prompt": [10 + (number * 37 + k * 11) % 140 for k in range(40)],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@dataclass
class Load:
    """A closed loop of clients that stream, each request on a connection of its own.

    `wrong` tells of every answer that was not complete, or not what it was before.
    """

    url: str
    texts: dict[int, str] = field(default_factory=dict)
    firsts_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    num_done: int = 0

    async def around(self, work: Coroutine[Any, Any, None]) -> None:
        """Learns the right answers, then asks for them again and again while `work` goes on."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*(self._ask(session, number) for number in range(NUM_PROMPTS)))
            assert not self.wrong, self.wrong
            done = asyncio.Event()
            clients = [
                asyncio.create_task(self._client(session, n, done)) for n in range(NUM_CLIENTS)
            ]
            try:
                await asyncio.sleep(0.5)
                await work
                await asyncio.sleep(0.5)
            finally:
                done.set()
                await asyncio.gather(*clients)

    def longest_gap_s(self) -> float:
        """The longest time in which no answer began."""
        firsts = sorted(self.firsts_s)
        return max(b - a for a, b in zip(firsts, firsts[1:], strict=False))

    async def _client(
        self, session: aiohttp.ClientSession, number: int, done: asyncio.Event
    ) -> None:
        while not done.is_set():
            await self._ask(session, number % NUM_PROMPTS)
            number += 5

    async def _ask(self, session: aiohttp.ClientSession, number: int) -> None:
        began_s = time.monotonic()
        try:
            async with session.post(f"{self.url}/v1/completions", json=body(number)) as response:
                text, num_tokens, ended = await self._read(response)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            after_s = time.monotonic() - began_s
            self.wrong.append(f"{type(error).__name__}: {error} after {after_s:.2f} s")
            await asyncio.sleep(0.2)
            return
        self.num_done += 1
        if not ended or num_tokens != MAX_TOKENS or text != self.texts.setdefault(number, text):
            self.wrong.append(
                f"{response.status} {num_tokens} tokens, ended {ended}: {text[-200:]}"
            )

    async def _read(self, response: aiohttp.ClientResponse) -> tuple[str, int, bool]:
        text, num_tokens = "", 0
        async for line in response.content:
            if line.startswith(b"data: [DONE]"):
                return text, num_tokens, True
            if not line.startswith(b"data: {"):
                text += line.decode().strip()  # an error's body
                continue
            chunk = json.loads(line[6:])
            if chunk.get("usage"):
                num_tokens = chunk["usage"]["completion_tokens"]
            elif chunk.get("choices"):
                if not text:
                    self.firsts_s.append(time.monotonic())
                text += chunk["choices"][0]["text"]
            else:
                text += line.decode()
        return text, num_tokens, False
