"""The client of all sides: it sends a request and counts what streams back, and nothing else.

The load client parses every event; at 40,000 a second it would be what is measured. This one looks
for byte strings, which takes a few microseconds a read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from rondo.errors import PeerError

_EVENT_END = b"\n\n"
_DONE = b"data: [DONE]"


class StreamBroken(PeerError):
    """A stream was refused, or ended before it was done."""


@dataclass(slots=True)
class Counts:
    """Of one stream, or of many.

    Attributes:
        events: server-sent events, those around the tokens included.
        marks: occurrences of the byte string that was looked for.
        reads: pieces that the connection gave.
    """

    events: int = 0
    marks: int = 0
    reads: int = 0
    bytes: int = 0


class _Stream(asyncio.Protocol):
    def __init__(self, request: bytes, mark: bytes, total: Counts, on_read: Callable[[], None]):
        self._request = request
        self._mark = mark
        self._total = total
        self._on_read = on_read
        self._tail = b""
        self._first = True
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._first and not data.startswith(b"HTTP/1.1 200"):
            self._fail(data[:300].decode(errors="replace"))
            return
        self._first = False
        total = self._total
        total.reads += 1
        total.bytes += len(data)
        total.events += data.count(_EVENT_END)
        if self._mark:
            total.marks += data.count(self._mark)
        self._on_read()
        self._tail = (self._tail + data)[-64:]
        if _DONE in self._tail and not self.done.done():
            self.done.set_result(None)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection ended: {exc}")

    def _fail(self, problem: str) -> None:
        if not self.done.done():
            self.done.set_exception(StreamBroken(problem))
        self._transport.close()


async def stream_all(
    url: str,
    path: str,
    bodies: list[bytes],
    *,
    total: Counts,
    mark: bytes = b"",
    on_read: Callable[[], None] = lambda: None,
    key: str = "none",
) -> None:
    """Sends all bodies at once, each over a connection of its own, and reads to their ends.

    `total` counts while they stream; `on_read` is called after every piece; `key` is the server's.

    Raises:
        StreamBroken: one of them was refused or broke off.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    loop = asyncio.get_running_loop()
    streams: list[_Stream] = []
    for body in bodies:
        request = _request(path, f"{host}:{port}", key, body)
        _, stream = await loop.create_connection(
            lambda request=request: _Stream(request, mark, total, on_read),  # type: ignore[misc]
            host,
            port,
        )
        streams.append(stream)
    await asyncio.gather(*(stream.done for stream in streams))


def _request(path: str, host: str, key: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nauthorization: Bearer {key}\r\n\r\n"
    )
    return head.encode() + body
