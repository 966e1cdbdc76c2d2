"""Refuses request bodies above a limit, before anything reads them into memory.

Surface: `app.add_middleware(BodyLimit, max_bytes=...)`. Raw ASGI, so streams pass untouched.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rondo_gateway.errors import ApiError


class BodyLimit:
    """ASGI middleware: 413 in OpenAI's shape for a body of more than `max_bytes`.

    A Content-Length above the limit is refused without running the application. A body without
    one is counted as it arrives; past the limit the client gets the 413 at once and the
    application is told that the client has gone, whatever it answers then is dropped. The
    connection stays usable: the server reads the rest of the body and discards it. `larger` are
    the limits of paths that have one of their own.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, larger: Mapping[str, int] | None = None
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._larger = larger or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application unless the body is too large."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = self._larger.get(scope["path"], self._max_bytes)
        exchange = _Exchange(scope, receive, send, max_bytes)
        if _declared_length(scope) > max_bytes:
            await exchange.refuse()
            return
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            if not exchange.refused:
                raise


class _Exchange:
    """One request and its response, with the bytes counted; `refused` once the 413 is sent."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_bytes: int) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._max_bytes = max_bytes
        self._received_bytes = 0
        self._response_started = False
        self.refused = False

    async def receive(self) -> Message:
        """Pass on what arrives, up to the limit."""
        if self.refused:
            return {"type": "http.disconnect"}
        message = await self._receive()
        self._received_bytes += len(message.get("body", b""))
        if self._received_bytes <= self._max_bytes:
            return message
        await self.refuse()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Pass on the application's response unless the 413 has taken its place."""
        if self.refused:
            return
        self._response_started = True
        await self._send(message)

    async def refuse(self) -> None:
        """Answer 413; too late for that once a response has begun."""
        if self._response_started:
            return
        self.refused = True
        error = ApiError(
            413,
            f"The request body is larger than {self._max_bytes} bytes.",
            code="request_too_large",
        )
        await error.response()(self._scope, self._receive, self._send)


def _declared_length(scope: Scope) -> int:
    """Return the Content-Length; 0 if absent or malformed, as the bytes are counted anyway."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
