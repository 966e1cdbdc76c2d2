"""BodyLimit before a real HTTP server, and its finer points by ASGI."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.types import Message, Receive, Scope, Send

from rondo_gateway.body_limit import BodyLimit
from rondo_gateway.errors import install_error_handlers

LIMIT = 100_000


@asynccontextmanager
async def connection() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server with an endpoint that returns the length of its body."""
    app = FastAPI()
    install_error_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=LIMIT)

    @app.post("/length")
    async def length(request: Request) -> int:
        return len(await request.body())

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        server.should_exit = True
        await serving


def with_length(body: bytes) -> bytes:
    return b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def chunked(body: bytes, size: int = 10_000) -> bytes:
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    head = b"POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"


async def read_response(reader: asyncio.StreamReader) -> tuple[int, Any]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length: ")[1].split("\r\n")[0])
    return int(head.split()[1]), json.loads(await reader.readexactly(length))


@pytest.mark.parametrize("encode", [with_length, chunked])
async def test_the_connection_outlives_a_refusal(encode: Any) -> None:
    async with connection() as (reader, writer):
        answers = []
        for size in (LIMIT, LIMIT + 1, 3, 10 * LIMIT, LIMIT):
            writer.write(encode(b"x" * size))
            answers.append(await read_response(reader))
    statuses = [status for status, _ in answers]
    assert statuses == [200, 413, 200, 413, 200]
    assert [body for status, body in answers if status == 200] == [LIMIT, 3, LIMIT]
    error = answers[1][1]["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "request_too_large"
    assert str(LIMIT) in error["message"]


class Recorder:
    """An ASGI client: gives the messages of a body and keeps those of the response."""

    def __init__(self, chunks: list[bytes], headers: list[tuple[bytes, bytes]]) -> None:
        self.scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
        self._chunks = chunks
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        body = self._chunks.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(self._chunks)}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


async def reading_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads all there is, answers 200 whatever happens."""
    while (message := await receive()).get("more_body"):
        pass
    scope["last"] = message["type"]
    scope["next"] = (await receive())["type"] if message["type"] == "http.disconnect" else None
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def test_a_declared_length_above_the_limit_does_not_run_the_application() -> None:
    client = Recorder([b"x"], [(b"content-length", b"11")])
    await BodyLimit(reading_app, max_bytes=10)(client.scope, client.receive, client.send)
    assert client.sent[0]["status"] == 413
    assert "last" not in client.scope


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"3")], [(b"content-length", b"x")]])
async def test_bytes_are_counted_whatever_was_declared(
    headers: list[tuple[bytes, bytes]],
) -> None:
    client = Recorder([b"x" * 6, b"x" * 5, b"x" * 1_000], headers)
    await BodyLimit(reading_app, max_bytes=10)(client.scope, client.receive, client.send)
    assert [message.get("status") for message in client.sent] == [413, None]
    assert (client.scope["last"], client.scope["next"]) == ("http.disconnect", "http.disconnect")


async def test_a_body_at_the_limit_passes() -> None:
    client = Recorder([b"x" * 5, b"x" * 5], [])
    await BodyLimit(reading_app, max_bytes=10)(client.scope, client.receive, client.send)
    assert client.sent[0]["status"] == 200


async def test_a_response_that_has_begun_is_not_broken_into() -> None:
    async def eager(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.body", "body": b"late"})

    client = Recorder([b"x" * 11], [])
    await BodyLimit(eager, max_bytes=10)(client.scope, client.receive, client.send)
    assert [message.get("status") for message in client.sent] == [200, None]


async def test_other_protocols_pass() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    client = Recorder([], [])
    await BodyLimit(app, max_bytes=10)({"type": "lifespan"}, client.receive, client.send)
    assert seen == ["lifespan"]
