"""Clients that keep asking a cluster questions whose answers are known, and count what is wrong."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from types import TracebackType

import aiohttp

from tests.docker.project import MODEL

NUM_CLIENTS = 6
NUM_QUESTIONS = 8
TIMEOUT_S = 120.0


@dataclass(slots=True)
class Answer:
    """A streamed answer: its text, how it ended, and when its pieces came."""

    text: str = ""
    finish: str | None = None
    done: bool = False
    at_s: list[float] = field(default_factory=list)


async def ask(session: aiohttp.ClientSession, url: str, text: str, max_tokens: int = 40) -> Answer:
    """One streamed chat.

    Raises:
        aiohttp.ClientError: the connection or the status was wrong.
        ValueError: the stream held an error.
    """
    body = {
        "model": MODEL,
        "stream": True,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "seed": 1,
        "messages": [{"role": "user", "content": text}],
    }
    answer = Answer()
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data: [DONE]"):
                answer.done = True
            elif line.startswith(b"data: "):
                _add(answer, json.loads(line[6:]))
            elif line.strip():
                raise ValueError(f"in the stream: {line!r}")
    return answer


def _add(answer: Answer, chunk: dict[str, object]) -> None:
    if "error" in chunk:
        raise ValueError(f"in the stream: {chunk['error']}")
    for choice in chunk["choices"]:  # type: ignore[attr-defined]
        answer.text += choice["delta"].get("content") or ""
        answer.finish = choice["finish_reason"] or answer.finish
        answer.at_s.append(time.monotonic())


class Load:
    """Asks from entry to exit of the context.

    Answers of the emulated engine depend on the prompt alone, so each is compared with what the
    same question got before anything was done to the cluster.
    """

    def __init__(self, url: str, num_clients: int = NUM_CLIENTS, max_tokens: int = 40) -> None:
        self._url = url
        self._num_clients = num_clients
        self._max_tokens = max_tokens
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._known: dict[str, Answer] = {}
        self.num_answers = 0
        self.slowest_s = 0.0
        self.errors: list[str] = []

    async def __aenter__(self) -> Load:
        # Each request gets a connection of its own: that is what finds a proxy's weak moments.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        )
        texts = [f"question {index}" for index in range(NUM_QUESTIONS)]
        asked = (ask(self._session, self._url, text, self._max_tokens) for text in texts)
        self._known = dict(zip(texts, await asyncio.gather(*asked), strict=True))
        self._tasks = [asyncio.create_task(self._client(i)) for i in range(self._num_clients)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await self._session.close()
        print(
            f"{self.num_answers} answers, {len(self.errors)} errors, {self.slowest_s:.1f} s at most"
        )

    async def _client(self, number: int) -> None:
        chosen = random.Random(number)
        while not self._stop.is_set():
            text = chosen.choice(sorted(self._known))
            start_s = time.monotonic()
            try:
                answer = await ask(self._session, self._url, text, self._max_tokens)
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                self.errors.append(f"{text}: {error!r}")
                continue
            known = self._known[text]
            if (answer.text, answer.finish, answer.done) != (known.text, "length", True):
                self.errors.append(f"{text}: {answer.text!r} instead of {known.text!r}")
            self.num_answers += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - start_s)
