"""Lines of batches run in the background, and nothing that a client sends does."""

from __future__ import annotations

import httpx
from fastapi import FastAPI, Request

from rondo_gateway.background import is_background
from rondo_gateway.batches.caller import LineCaller
from rondo_gateway.batches.service import _inner_app


class Echo:
    """A route that says whether its request is in the background."""

    def install(self, app: FastAPI) -> None:
        app.post("/v1/echo")(self.echo)

    async def echo(self, request: Request) -> bool:
        return is_background(request)


async def test_a_line_is_marked() -> None:
    answer = await LineCaller(_inner_app([Echo()]), "").call("/v1/echo", b"{}")
    assert (answer.status, answer.body) == (200, b"true")


async def test_a_client_cannot_mark() -> None:
    app = FastAPI()
    Echo().install(app)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/v1/echo", headers={"rondo.background": "true"})
    assert answer.json() is False
