"""x-request-id in and out, and the instant at which a request arrived.

A client's id is given back as it is; where it has none, or one that is no short printable word,
it gets a new one. The id is for the client's and our logs only: on the bus a request has another,
so two requests with the same id from outside are no trouble.
"""

from __future__ import annotations

import time
import uuid

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
MAX_CHARS = 128
_ARRIVAL = "rondo.arrival_s"


class RequestId:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stamps the request and names the response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[_ARRIVAL] = time.monotonic()
        given = Headers(scope=scope).get(HEADER, "")
        name = given if _is_fit(given) else f"req_{uuid.uuid4().hex}"

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = name
            await send(message)

        await self._app(scope, receive, named)


def arrival_of(request: Request) -> float:
    """When the request's head had come, on the monotonic clock; now without the middleware."""
    arrival_s = request.scope.get(_ARRIVAL)
    return arrival_s if isinstance(arrival_s, float) else time.monotonic()


def _is_fit(name: str) -> bool:
    return 0 < len(name) <= MAX_CHARS and name.isascii() and name.isprintable()
