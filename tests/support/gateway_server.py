"""The gateway's HTTP server around an application of a test, and connections byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp

from rondo_gateway.security.tls import Tls
from rondo_gateway.server import GatewayServer
from rondo_gateway.settings import GatewaySettings

PATIENCE_S = 20.0


@asynccontextmanager
async def serving(
    app: ASGIApp, *, tls: Tls | None = None, **settings: Any
) -> AsyncIterator[GatewayServer]:
    """A server on a free port of this machine."""
    server = GatewayServer(app, GatewaySettings(models="none", http_port=0, **settings), tls)
    task = asyncio.create_task(server.run_until_told())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.001)
    try:
        yield server
    finally:
        server.should_exit = True
        async with asyncio.timeout(PATIENCE_S):
            await task


class Connection:
    """A connection whose every byte the test chooses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: str | bytes) -> None:
        """Sends some bytes."""
        self.writer.write(data.encode() if isinstance(data, str) else data)

    async def answer(self) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the next answer with a Content-Length."""
        async with asyncio.timeout(PATIENCE_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            pairs = (line.partition(": ") for line in lines[1:] if line)
            headers = {name.lower(): value for name, _, value in pairs}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(lines[0].split()[1]), headers, body

    async def refusal(self) -> tuple[int, str]:
        """Status and error code of an answer after which the server closes."""
        status, headers, body = await self.answer()
        assert headers["connection"] == "close"
        await self.ended()
        return status, json.loads(body)["error"]["code"]

    async def ended(self) -> None:
        """Returns when the server has closed the connection without another byte."""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionResetError):
                assert await self.reader.read() == b""

    async def is_open(self) -> bool:
        """Whether the server still answers on it."""
        self.send("GET /open HTTP/1.1\r\nhost: x\r\n\r\n")
        try:
            return (await self.answer())[0] == 200
        except (asyncio.IncompleteReadError, ConnectionError):
            return False


@asynccontextmanager
async def connected(server: GatewayServer) -> AsyncIterator[Connection]:
    """A connection to a server without TLS."""
    connection = Connection(*await asyncio.open_connection("127.0.0.1", server.port))
    try:
        yield connection
    finally:
        connection.writer.close()
