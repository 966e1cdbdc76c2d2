"""Lines of batches run in the background, and nothing that a client sends does."""

from __future__ import annotations

import asyncio

import httpx
from fastapi import FastAPI, Request

from rondo_gateway.background import is_background, placed
from rondo_gateway.batches.caller import LineCaller
from rondo_gateway.batches.service import _inner_app


class Echo:
    """A route that says whether its request is in the background, and that an instance took it."""

    def install(self, app: FastAPI) -> None:
        app.post("/v1/echo")(self.echo)

    async def echo(self, request: Request) -> bool:
        await asyncio.create_task(self._start())  # as a completion does for each choice
        return is_background(request)

    async def _start(self) -> None:
        placed()


async def test_a_line_is_marked_and_told_when_it_is_placed() -> None:
    caller = LineCaller(_inner_app([Echo()]), "")
    told = list[int]()

    async def call(number: int) -> None:
        answer = await caller.call("/v1/echo", b"{}", lambda: told.append(number))
        assert (answer.status, answer.body) == (200, b"true")

    await asyncio.gather(*(call(number) for number in range(3)))
    assert sorted(told) == [0, 1, 2]


async def test_a_client_cannot_mark() -> None:
    app = FastAPI()
    Echo().install(app)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/v1/echo", headers={"rondo.background": "true"})
    assert answer.json() is False
