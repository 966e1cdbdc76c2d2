"""The end of a gateway that its clients do not notice: what has begun is answered, no more comes.

Raw ASGI around the application, so that it sees every request and what came of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn import Server

from rondo.service import logs
from rondo_gateway.errors import ApiError, sse_error_frame
from rondo_gateway.event_stream import DIRECT_SEND

log = logging.getLogger("rondo.gateway")

#: An idle connection is closed only after this time: a request may be on its way, and a client
#: that was told `Connection: close` with its next answer has moved on by itself.
LINGER_S = 1.0
#: Answers that are complete may take this long to reach clients that read slowly.
FLUSH_S = 5.0
#: What is cut off at the deadline has this long to say so to its clients.
GOODBYE_S = 1.0
POLL_S = 0.05


class Drain:
    """ASGI middleware that can stop the server it runs in.

    While draining, /readyz says so and every answer ends its connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._draining = False
        self._exchanges: dict[int, _Exchange] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application; cuts it off when the deadline of a drain comes first."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(self, send)
        if self._draining and scope["path"] in ("/readyz", "/health"):
            body = {"status": "not ready", "problem": "draining: the gateway is stopping"}
            await JSONResponse(body, status_code=503)(scope, receive, exchange.send)
            return
        self._exchanges[id(exchange)] = exchange
        scope[DIRECT_SEND] = send
        try:
            await self._app(scope, receive, exchange.send)
        except asyncio.CancelledError:
            if not exchange.cut:
                raise
            exchange.task.uncancel()
            await exchange.say_goodbye(scope, receive)
        finally:
            del self._exchanges[id(exchange)]

    @property
    def draining(self) -> bool:
        """Whether the gateway is stopping."""
        return self._draining

    async def drain(self, server: Server, timeout_s: float, hurry: asyncio.Event) -> None:
        """Returns when all is answered, or cut off after `timeout_s` or when told to `hurry`.

        No connection is taken any more from where the API is, the last of the server's sockets.
        """
        self._draining = True
        if server.servers:
            server.servers[-1].close()
        connections = server.server_state.connections
        logs.info(log, "draining", connections=len(connections), requests=len(self._exchanges))
        for connection in list(connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not cycle.response_complete:
                connection.shutdown()  # after its answer
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await _until(lambda: not connections or hurry.is_set(), LINGER_S)
                for connection in list(connections):
                    connection.shutdown()  # at once, those that are idle
                await _until(lambda: not self._exchanges or hurry.is_set())
                await _until(lambda: not connections or hurry.is_set(), FLUSH_S)
        if self._exchanges:
            await self._cut()

    async def _cut(self) -> None:
        """Tells the clients of what is left that this is the end."""
        logs.warning(log, "drain_cut", requests=len(self._exchanges))
        for exchange in list(self._exchanges.values()):
            exchange.give_up()
        await _until(lambda: not self._exchanges, GOODBYE_S)


async def _until(done: Callable[[], bool], most_s: float = math.inf) -> None:
    """Returns when it is done, or after `most_s`."""
    deadline_s = time.monotonic() + most_s
    # uvicorn has no event for it, and it happens once.
    while not done() and time.monotonic() < deadline_s:  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)


class _Exchange:
    """One request, and how far its answer has come."""

    def __init__(self, drain: Drain, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None  # the server runs each request as one
        self.task = task
        self.cut = False
        self._drain = drain
        self._send = send
        self._started = self._streams = False

    def give_up(self) -> None:
        """Cancels the application."""
        self.cut = True
        self.task.cancel()

    async def send(self, message: Message) -> None:
        """Passes the answer on; while draining, it ends the connection."""
        if message["type"] == "http.response.start":
            self._started = True
            headers = list(message["headers"])
            self._streams = any(
                name == b"content-type" and value.startswith(b"text/event-stream")
                for name, value in headers
            )
            if self._drain.draining:
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
        await self._send(message)

    async def say_goodbye(self, scope: Scope, receive: Receive) -> None:
        """A typed error instead of the rest of the answer."""
        error = ApiError(503, "The service is stopping.", code="stopping", retry_after_s=1.0)
        if not self._started:
            await error.response()(scope, receive, self.send)
        elif self._streams:
            frame = sse_error_frame(error)
            await self._send({"type": "http.response.body", "body": frame, "more_body": False})
