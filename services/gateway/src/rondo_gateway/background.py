"""Requests that have time: a mark that the application sets within this process, and no client can.

The schedulers run them only in what other requests leave over (docs/batches.md).
"""

from __future__ import annotations

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

_MARK = "rondo.background"


class Background:
    """ASGI middleware: whatever passes runs in the background."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Marks the request."""
        scope[_MARK] = True
        await self._app(scope, receive, send)


def is_background(request: Request) -> bool:
    """Whether the request has been marked."""
    return request.scope.get(_MARK) is True
