"""A trivial server of OpenAI streams, in a process of its own: it does as little as it can.

Whatever a client or proxy costs in front of it is that one's own. Each request gets as many events
as it asks for tokens, one word each. With a pace, every stream gets one event a tick, as from an
engine's step; without, events go out as fast as the connection takes them.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from typing import cast

import msgspec
import uvloop

_HEADER_END = b"\r\n\r\n"
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_COMMON = b'{"id":"x-0","created":1,"model":"m","object":'
_TEXT_EVENT = (
    b"data: " + _COMMON + b'"text_completion","choices":'
    b'[{"index":0,"text":" word","logprobs":null,"finish_reason":null}]}\n\n'
)
_CHAT_EVENT = (
    b"data: " + _COMMON + b'"chat.completion.chunk","choices":'
    b'[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}\n\n'
)
#: Events written at once where there is no pace.
_BURST = 16


class _Body(msgspec.Struct):
    """The fields that matter here."""

    max_tokens: int = 16


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _end(chat: bool, num_tokens: int) -> bytes:
    """Finish reason, usage, and [DONE]."""
    name = b"chat.completion.chunk" if chat else b"text_completion"
    delta = b'"delta":{}' if chat else b'"text":""'
    head = b"data: " + _COMMON + b'"' + name + b'","choices":['
    finish = head + b'{"index":0,' + delta + b',"logprobs":null,"finish_reason":"length"}]}\n\n'
    usage = b'],"usage":{"prompt_tokens":1,"completion_tokens":%d,"total_tokens":%d}}\n\n'
    used = head + usage % (num_tokens, num_tokens + 1)
    return _chunk(finish + used + b"data: [DONE]\n\n") + b"0\r\n\r\n"


class _Connection(asyncio.Protocol):
    """One connection: a request at a time, each answered with a stream."""

    def __init__(self, pace_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._pace_s = pace_s
        self._received = b""
        self._writable = True
        self._num_left = 0
        self._end = b""
        self._event = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self._num_left = 0
        if self._timer:
            self._timer.cancel()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._num_left and not self._pace_s:
            self._burst()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(_HEADER_END)
        if not separator:
            return
        lines = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        length = int(lines[0].split(b":")[1]) if lines else 0
        if len(body) < length:
            return
        self._received = b""
        if head.startswith(b"POST"):
            self._answer(b"/chat/" in head.split(b"\r\n", 1)[0], body)
        else:
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    def _answer(self, chat: bool, body: bytes) -> None:
        count = msgspec.json.decode(body, type=_Body).max_tokens
        self._event = _CHAT_EVENT if chat else _TEXT_EVENT
        self._end, self._num_left = _end(chat, count), count
        self._transport.write(_HEAD)
        if self._pace_s:
            self._tick(self._loop.time())
        else:
            self._burst()

    def _tick(self, due_s: float) -> None:
        """One event now; the next a pace after this one was due, so that no time adds up."""
        self._transport.write(_chunk(self._event))
        self._num_left -= 1
        if self._num_left:
            due_s += self._pace_s
            self._timer = self._loop.call_at(due_s, self._tick, due_s)
        else:
            self._transport.write(self._end)

    def _burst(self) -> None:
        while self._writable and self._num_left:
            count = min(_BURST, self._num_left)
            self._num_left -= count
            self._transport.write(_chunk(self._event) * count)
            if not self._num_left:
                self._transport.write(self._end)


async def serve(port: int, pace_s: float, ready: Callable[[int], None]) -> None:
    """Serves on the loopback until cancelled; `ready` gets the port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(pace_s), "127.0.0.1", port, backlog=4096)
    ready(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


def main() -> None:
    """Prints `ready <address>` and serves until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--pace-s", type=float, default=0.0)
    args = parser.parse_args()

    def ready(port: int) -> None:
        print(f"ready http://127.0.0.1:{port}", flush=True)

    uvloop.run(serve(args.port, args.pace_s, ready))


if __name__ == "__main__":
    main()
