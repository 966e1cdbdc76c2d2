"""Lets a request pass whose key allows it; raw ASGI, so streams pass untouched.

Surface: `Gate`, and `Door` for what it goes by.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from rondo.service.api_keys import ApiKey, Scope
from rondo_gateway.errors import ApiError
from rondo_gateway.metrics import GatewayMetrics
from rondo_gateway.security.credentials import credentials_of, is_foreign, is_loopback
from rondo_gateway.security.identity import ANYBODY, Identity, no_key, set_identity
from rondo_gateway.security.key_ring import KeyRing
from rondo_gateway.security.pages import PAGE_HEADERS
from rondo_gateway.security.spent import begin_spending

#: Below these an `admin` key is needed, and answers are pages for browsers.
ADMIN = ("/admin", "/console")
#: For load balancers, which have no key.
OPEN = ("/healthz", "/readyz", "/health")
METRICS = "/metrics"


@dataclass(frozen=True, slots=True)
class Door:
    """Who may come in.

    Attributes:
        keys: None: everybody.
        loopback_only: requests must name this machine as their host; else a page of another site
            could reach it by a name of its own that it gives this machine's address.
        metrics: who may read /metrics: those with an `admin` key, or everybody.
        origins: sites whose pages may call the API from a browser; `*` for all.
    """

    keys: KeyRing | None = None
    loopback_only: bool = False
    metrics: Literal["admin", "open"] = "admin"
    origins: frozenset[str] = field(default_factory=frozenset)


#: For an application without keys.
OPEN_DOOR = Door()


class Gate:
    """ASGI middleware: 401, 403 or 429 in OpenAI's shape for what may not pass."""

    def __init__(self, app: ASGIApp, door: Door, metrics: GatewayMetrics | None = None) -> None:
        self._app = app
        self._door = door
        self._metrics = metrics

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Runs the application for those who may."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if _is_below(path, ADMIN):
            send = _with_page_headers(send)
        try:
            key = self._admit(scope, path)
        except ApiError as error:
            await self._refuse(error, path, scope, receive, send)
            return
        if key is None or self._door.keys is None:
            await self._app(scope, receive, send)
            return
        usage = self._door.keys.usage(key)
        try:
            usage.begin(time.monotonic())
        except ApiError as error:
            await self._refuse(error, path, scope, receive, send)
            return
        spent = begin_spending()
        try:
            await self._app(scope, receive, send)
        finally:
            usage.end(spent.num_tokens, time.monotonic())

    def _admit(self, scope: AsgiScope, path: str) -> ApiKey | None:
        """The key whose request this is; None for one that counts for nobody.

        Raises:
            ApiError: it may not pass.
        """
        headers = Headers(scope=scope)
        needed = self._needed(path)
        keys = self._door.keys
        if keys is None:
            self._check_anybody(scope["method"], headers)
            set_identity(scope, ANYBODY)
            return None
        if needed is None:
            return None
        credentials = credentials_of(headers)
        if credentials is None:
            raise no_key()
        key = keys.find(credentials.key)
        if credentials.ambient and is_foreign(scope["method"], headers, frozenset()):
            raise _foreign()
        identity = Identity(key.id, key.scopes)
        identity.check(needed)
        set_identity(scope, identity)
        return key

    def _check_anybody(self, method: str, headers: Headers) -> None:
        if self._door.loopback_only and not is_loopback(headers.get("host", "localhost")):
            message = "Without API keys the host of a request must be localhost or its address."
            raise ApiError(403, message, type="permission_error", code="unknown_host")
        if is_foreign(method, headers, self._door.origins):
            raise _foreign()

    def _needed(self, path: str) -> Scope | None:
        """The scope that a path needs; None: it is open. What is not known needs `inference`."""
        if path in OPEN or (path == METRICS and self._door.metrics == "open"):
            return None
        return "admin" if path == METRICS or _is_below(path, ADMIN) else "inference"

    async def _refuse(
        self, error: ApiError, path: str, scope: AsgiScope, receive: Receive, send: Send
    ) -> None:
        if self._metrics:
            self._metrics.refused.labels(error.code or "").inc()
        response = error.response()
        if error.status == 401:
            response.headers["www-authenticate"] = 'Bearer realm="rondo"'
            if _is_below(path, ADMIN):  # where browsers are
                response.headers.append("www-authenticate", 'Basic realm="rondo"')
        await response(scope, receive, send)


def _is_below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def _with_page_headers(send: Send) -> Send:
    async def dressed(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in PAGE_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return dressed


def _foreign() -> ApiError:
    message = "A page of another site must not send this."
    return ApiError(403, message, type="permission_error", code="foreign_origin")
