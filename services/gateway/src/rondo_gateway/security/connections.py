"""One HTTP connection, with limits on its size and patience; uvicorn's httptools protocol inside.

uvicorn leaves connections alone that never send a whole request, and reads heads of any size.
Here a connection has a deadline in each of its phases but one:

    idle -> head -> body -> answering -> idle ...

`answering` has none: an answer takes as long as it takes, and what bounds it is the gateway's
patience with the cluster. A client that begins its next request meanwhile is not hurried.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from rondo_gateway.errors import ApiError
from rondo_gateway.security.http_limits import MIN_BODY_RATE, HttpLimits

#: How long a refused connection is kept, for its client to read why.
LAST_WORD_S = 2.0


class HttpConfig(uvicorn.Config):
    """uvicorn's configuration with the limits of its connections.

    Args:
        tls: the context of all connections; None: plain HTTP.
    """

    def __init__(
        self, app: ASGIApp, limits: HttpLimits, tls: ssl.SSLContext | None, shutdown_s: int
    ) -> None:
        super().__init__(
            app,
            http=HttpConnection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=shutdown_s,
            ssl_context_factory=(lambda *_: tls) if tls else None,
        )
        self.limits = limits
        self.resting: dict[HttpConnection, None] = {}
        """Connections with no request that anybody works on, the longest first."""


@dataclass(slots=True)
class _Reading:
    """How far the request that is being read has come."""

    phase: str = ""  # of the request: "head", "body", or "" between two
    number: int = 0
    head_bytes: int = 0  # of what the parser has understood
    raw_bytes: int = 0  # after the first piece
    headers: int = 0
    body_bytes: int = 0


@dataclass(slots=True)
class _Deadline:
    """What is waited for, of which request, and the timer that ends the wait."""

    phase: str | None = None
    number: int = -1
    begun_s: float = 0.0  # on the loop's clock
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)


class HttpConnection(HttpToolsProtocol):
    """See the module."""

    config: HttpConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = self.config.limits
        self._reading = _Reading()
        self._deadline = _Deadline()
        self._refusal: ApiError | None = None
        self._unsent_bytes: float = float("inf")  # at the last idle deadline
        self._expire: dict[str, Callable[[], None]] = {
            "idle": self._idle_over,
            "head": self._too_slow,
            "body": self._body_late,
        }

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins idle, if there is room."""
        super().connection_made(transport)
        self._set_deadline()
        if len(self.connections) > self._limits.connections:
            oldest = next(iter(self.config.resting))
            if oldest is self:
                message = "Too many connections."
                error = ApiError(503, message, code="too_many_connections", retry_after_s=1)
                self._refuse(error, linger=False)
            else:
                oldest.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets everything."""
        super().connection_lost(exc)
        self._watch(None)

    def data_received(self, data: bytes) -> None:
        """Reads on."""
        if self._refusal is not None:
            return  # what comes after the last word
        reading = self._reading
        before = reading.phase == "head", reading.number
        super().data_received(data)
        if before == (True, reading.number) and reading.phase == "head":
            reading.raw_bytes += len(data)  # they may be of one header whose end has not come
            if reading.raw_bytes > self._limits.head_bytes:
                self._refuse(_large_head())
        self._set_deadline()

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self._reading = _Reading("head", self._reading.number + 1)

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        if self._reading.phase != "head":
            self._refusal = ApiError(400, "Trailers are not supported.", code="invalid_request")
            raise self._refusal
        self._reading.headers += 1
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body comes."""
        self._reading.phase = "body"
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._reading.body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._reading.phase = ""
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is whole."""
        super().on_response_complete()
        self._unset_keepalive_if_required()  # uvicorn's own, which any byte would end for good
        self._set_deadline()
        if self._deadline.phase == "body":  # of a request that was answered without it
            self.config.resting[self] = None

    def send_400_response(self, msg: str) -> None:
        """What uvicorn says of bytes that are no request; also of those that a callback refused."""
        self._refuse(self._refusal or ApiError(400, msg, code="invalid_request"))

    # Limits.

    def _count(self, num_bytes: int) -> None:
        reading = self._reading
        reading.head_bytes += num_bytes
        if reading.head_bytes > self._limits.head_bytes or reading.headers > self._limits.headers:
            self._refusal = _large_head()
            raise self._refusal  # the parser stops, and uvicorn asks for a response

    def _set_deadline(self) -> None:
        """Starts a timer where something else is waited for than before."""
        phase = self._phase()
        if (phase, self._reading.number) == (self._deadline.phase, self._deadline.number):
            return
        self._watch(phase)

    def _phase(self) -> str | None:
        """What is waited for from the client; None: nothing."""
        if self._refusal is not None or self.transport.is_closing() or self.pipeline:
            return None
        if self._reading.phase == "body":
            return "body"
        if self.cycle is not None and not self.cycle.response_complete:
            return None
        return self._reading.phase or "idle"

    def _watch(self, phase: str | None) -> None:
        if self._deadline.timer is not None:
            self._deadline.timer.cancel()
        self.config.resting.pop(self, None)
        timer = None
        if phase is not None:
            if phase != "body":
                self.config.resting[self] = None
            after_s: float = getattr(self._limits, f"{phase}_s")
            timer = self.loop.call_later(after_s, self._expire[phase])
        self._deadline = _Deadline(phase, self._reading.number, self.loop.time(), timer)

    def _idle_over(self) -> None:
        """Closes, unless the last answer is still on its way to a slow reader."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0:
            self.transport.close()
        elif unsent < self._unsent_bytes:
            self._unsent_bytes = unsent
            self._watch("idle")
        else:
            self.transport.abort()

    def _body_late(self) -> None:
        """Waits on for a long body that comes fast enough."""
        most_s = self._limits.body_s + self._reading.body_bytes / MIN_BODY_RATE
        rest_s = self._deadline.begun_s + most_s - self.loop.time()
        if rest_s > 0:
            self._deadline.timer = self.loop.call_later(rest_s, self._body_late)
        else:
            self._too_slow()

    def _too_slow(self) -> None:
        self._refuse(ApiError(408, "The request took too long to arrive.", code="request_timeout"))

    def _refuse(self, error: ApiError, *, linger: bool = True) -> None:
        """The last word on this connection, if its last answer has not begun.

        What the client still sends is read and dropped for a while: were the connection closed
        with it unread, the client's system would throw the last word away.
        """
        self._refusal = error
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete
        if not (answering and cycle.response_started):
            self.transport.write(_encoded(error))
        if answering:
            cycle.disconnected = True
            cycle.message_event.set()
        if linger and self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()
        self.loop.call_later(LAST_WORD_S, self.transport.abort)
        self._watch(None)


def _large_head() -> ApiError:
    return ApiError(431, "The request's headers are too large.", code="headers_too_large")


def _encoded(error: ApiError) -> bytes:
    body = json.dumps(error.body()).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **error.headers(),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[error.status] + lines.encode() + b"\r\n" + body
