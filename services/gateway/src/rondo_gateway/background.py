"""Requests that have time: a mark that the application sets within this process, and no client can.

The schedulers run them only in what other requests leave over (docs/batches.md). Whoever sends one
may ask to be told when an instance has taken it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

_MARK = "rondo.background"
_on_placed: ContextVar[Callable[[], None] | None] = ContextVar("rondo_placed", default=None)


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


def when_placed(call: Callable[[], None]) -> None:
    """From now on `call` is told of each `placed`, in this task and those it starts."""
    _on_placed.set(call)


def placed() -> None:
    """An instance has taken the request that runs now, or one of its choices."""
    call = _on_placed.get()
    if call is not None:
        call()
