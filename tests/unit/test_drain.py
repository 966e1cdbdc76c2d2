"""A draining gateway: what is answered, what is told, and what is closed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.types import Receive, Scope, Send

from rondo_gateway import drain as drain_module
from rondo_gateway.drain import Drain
from rondo_gateway.server import GatewayServer
from rondo_gateway.settings import GatewaySettings

SETTINGS = GatewaySettings(models="none", http_port=0)


class App:
    """/stream sends events, /plain one body; each when it is let go on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.begun = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = scope["path"] == "/stream"
        kind = b"text/event-stream" if stream else b"text/plain"
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}
        if stream:
            await send(start)
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        if scope["path"] != "/quick":
            self.begun.set()
            await self.go_on.wait()
        if not stream:
            await send(start)
        await send({"type": "http.response.body", "body": b"data: 2\n\n", "more_body": False})


class Client:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def ask(self, path: str) -> None:
        self.writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())

    async def head(self) -> str:
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def rest(self) -> str:
        """Everything until the server closes."""
        async with asyncio.timeout(5):
            data = (await self.reader.read()).decode()
        self.writer.close()
        return data


class Gateway:
    """A server with the drain around an application."""

    def __init__(self) -> None:
        self.app = App()
        self.drain = Drain(self.app)
        self.server = GatewayServer(self.drain, SETTINGS)
        self.hurry = asyncio.Event()

    async def client(self, path: str = "") -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.server.port))
        if path:
            client.ask(path)
        return client

    def stop(self, timeout_s: float = 5.0) -> asyncio.Task[None]:
        return asyncio.create_task(self.drain.drain(self.server, timeout_s, self.hurry))


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_module, "LINGER_S", 0.2)
    monkeypatch.setattr(drain_module, "POLL_S", 0.01)


@asynccontextmanager
async def running() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    serving = asyncio.create_task(gateway.server.run_until_told())
    while not gateway.server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.001)
    try:
        yield gateway
    finally:
        gateway.server.should_exit = True
        async with asyncio.timeout(5):
            await serving


@pytest.mark.usefixtures("_quick")
async def test_a_stream_ends_whole_and_its_connection_with_it() -> None:
    async with running() as gateway:
        client = await gateway.client("/stream")
        await gateway.app.begun.wait()
        stopping = gateway.stop()
        await asyncio.sleep(0.3)
        assert not stopping.done()
        gateway.app.go_on.set()
        assert (await client.rest()).endswith("data: 2\n\n\r\n0\r\n\r\n")
        await stopping


@pytest.mark.usefixtures("_quick")
async def test_open_connections_are_answered_once_more_and_told_to_go() -> None:
    async with running() as gateway:
        kept, fresh, idle = [await gateway.client() for _ in range(3)]
        kept.ask("/quick")
        assert "connection: close" not in await kept.head()
        await kept.reader.readuntil(b"0\r\n\r\n")
        stopping = gateway.stop()
        await asyncio.sleep(0.05)
        kept.ask("/quick")  # on a connection that was idle
        fresh.ask("/readyz")  # on one that had said nothing yet
        assert "connection: close" in await kept.rest()
        answer = await fresh.rest()
        assert "HTTP/1.1 503" in answer
        assert "draining" in answer
        assert await idle.rest() == ""
        await stopping
        with pytest.raises(ConnectionRefusedError):
            await gateway.client()


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("by", ["deadline", "second signal"])
async def test_what_does_not_end_in_time_ends_in_a_typed_error(by: str) -> None:
    async with running() as gateway:
        stream, plain = await gateway.client("/stream"), await gateway.client("/plain")
        await gateway.app.begun.wait()
        await asyncio.sleep(0.05)
        stopping = gateway.stop(timeout_s=0.3 if by == "deadline" else 60.0)
        if by == "second signal":
            gateway.hurry.set()
        async with asyncio.timeout(5):
            await stopping
        said = await stream.rest()
        frames = [line for line in said.splitlines() if line.startswith("data: ")]
        assert frames[0] == "data: 1"
        assert json.loads(frames[1].removeprefix("data: "))["error"]["code"] == "stopping"
        assert said.endswith("0\r\n\r\n")
        head, _, body = (await plain.rest()).partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 503")
        assert "retry-after: 1" in head
        assert json.loads(body)["error"]["code"] == "stopping"
