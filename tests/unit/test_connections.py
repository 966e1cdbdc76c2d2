"""Connections that are slow, idle, too many, or send too much; on real sockets."""

from __future__ import annotations

import asyncio
import resource
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from rondo_gateway.security import connections as module
from rondo_gateway.security.files import OWN_FILES, allow_many_files
from tests.support.gateway_server import Connection, connected, serving

GET = "GET / HTTP/1.1\r\nhost: x\r\n\r\n"
HEAD = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n"
SHORT_S = 0.3


class App:
    """Reads the whole body and answers with its length; /slow answers when it is let go on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.begun = asyncio.Event()
        self.disconnects = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/deaf":  # answers without having read anything
            await self.answer(send, 0)
            return
        length, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnects += 1
                return
            length += len(message["body"])
            more = message["more_body"]
        if scope["path"] == "/slow":
            self.begun.set()
            await self.go_on.wait()
        await self.answer(send, length)

    async def answer(self, send: Send, length: int) -> None:
        body = str(length).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def drip(connection: Connection, text: str, pause_s: float = 0.02) -> None:
    """Sends byte after byte, until the server has had enough."""
    for char in text:
        if connection.writer.transport.is_closing() or connection.reader.at_eof():
            return
        connection.send(char)
        await asyncio.sleep(pause_s)


async def test_a_head_that_does_not_end_is_a_408() -> None:
    async with serving(App(), head_timeout_s=SHORT_S) as server, connected(server) as slow:
        begun_s = time.monotonic()
        dripping = asyncio.create_task(drip(slow, "GET / HTTP/1.1\r\nx-a: " + "a" * 10_000))
        assert await slow.refusal() == (408, "request_timeout")
        assert time.monotonic() - begun_s >= SHORT_S * 0.9
        dripping.cancel()


async def test_the_head_of_a_later_request_too() -> None:
    async with serving(App(), head_timeout_s=SHORT_S) as server, connected(server) as slow:
        slow.send(GET)
        assert (await slow.answer())[0] == 200
        slow.send("GET / HT")
        assert await slow.refusal() == (408, "request_timeout")


async def test_a_body_that_does_not_end_is_a_408_and_the_application_hears_of_it() -> None:
    app = App()
    async with serving(app, body_timeout_s=SHORT_S) as server, connected(server) as slow:
        slow.send(HEAD)
        dripping = asyncio.create_task(drip(slow, "12345678", 0.01))
        assert await slow.refusal() == (408, "request_timeout")
        dripping.cancel()
        async with asyncio.timeout(5):
            while not app.disconnects:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


async def test_a_long_body_earns_time_while_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_BODY_RATE", 1000)
    head = HEAD.replace("10\r\n", "3000\r\n")
    async with serving(App(), body_timeout_s=SHORT_S) as server, connected(server) as client:
        client.send(head + "x" * 2000)
        await asyncio.sleep(2 * SHORT_S)
        client.send("x" * 1000)
        assert (await client.answer())[2] == b"3000"
        begun_s = time.monotonic()
        client.send(head + "x" * 500)
        assert await client.refusal() == (408, "request_timeout")
        assert time.monotonic() - begun_s >= SHORT_S + 0.4


async def test_so_is_one_that_was_answered_already() -> None:
    async with serving(App(), body_timeout_s=SHORT_S) as server, connected(server) as slow:
        slow.send(HEAD.replace("POST /", "POST /deaf"))
        assert (await slow.answer())[0] == 200
        assert (await slow.answer())[0] == 408
        await slow.ended()


async def test_an_answer_may_take_its_time_and_the_next_request_with_it() -> None:
    app = App()
    timeouts = ("head_timeout_s", "body_timeout_s", "idle_timeout_s")
    short: dict[str, Any] = dict.fromkeys(timeouts, SHORT_S)
    async with serving(app, **short) as server, connected(server) as client:
        client.send(GET.replace("/ ", "/slow "))
        await app.begun.wait()
        client.send(HEAD + "12345")  # the next one, as far as it goes
        await asyncio.sleep(3 * SHORT_S)
        app.go_on.set()
        assert (await client.answer())[2] == b"0"
        client.send("67890")
        assert (await client.answer())[2] == b"10"


@pytest.mark.parametrize("first", ["", GET])
async def test_idle_connections_are_closed_in_the_end(first: str) -> None:
    async with serving(App(), idle_timeout_s=SHORT_S) as server, connected(server) as idle:
        if first:
            idle.send(first)
            assert (await idle.answer())[0] == 200
        await drip(idle, "\r\n\r\n", 0.01)  # between requests, and none
        begun_s = time.monotonic()
        await idle.ended()
        assert time.monotonic() - begun_s >= SHORT_S * 0.5


async def test_requests_in_a_row_are_not_idle() -> None:
    async with serving(App(), idle_timeout_s=SHORT_S) as server, connected(server) as client:
        for _ in range(5):
            client.send(GET)
            assert (await client.answer())[0] == 200
            await asyncio.sleep(SHORT_S / 2)


BIG = "x-a: " + "a" * 1000 + "\r\n"


@pytest.mark.parametrize(
    "head",
    [
        "GET / HTTP/1.1\r\n" + BIG * 40,
        "GET / HTTP/1.1\r\nx-a: " + "a" * 400_000,
        "GET /" + "a" * 400_000,
        "GET / HTTP/1.1\r\n" + "x: y\r\n" * 102,
        "GET / HTTP/1.1\r\nx" + "a" * 400_000,
    ],
    ids=["many long lines", "a long line", "a long path", "many lines", "a long name"],
)
@pytest.mark.parametrize("size", [1000, 1_000_000])
async def test_large_heads_are_a_431(head: str, size: int) -> None:
    app = App()
    async with serving(app) as server, connected(server) as client:
        refused = asyncio.create_task(client.refusal())
        for start in range(0, len(head), size):
            if refused.done():
                break
            client.send(head[start : start + size])
            await asyncio.sleep(0.001)
        assert await refused == (431, "headers_too_large")


async def test_heads_up_to_the_limit_pass_also_after_a_large_body() -> None:
    head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n" + BIG * 30 + "\r\n"
    async with serving(App()) as server, connected(server) as client:
        for _ in range(3):
            client.send((head + "x" * 200_000) * 2)
            assert (await client.answer())[2] == b"200000"
            assert (await client.answer())[2] == b"200000"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("nonsense\r\n\r\n", "invalid_request"),
        ("GET / HTTP/9.9\r\n\r\n", "invalid_request"),
        ("POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", None),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: y\r\n\r\n",
            "invalid_request",
        ),
    ],
)
async def test_what_is_no_request_is_a_400(data: str, code: str | None) -> None:
    async with serving(App()) as server, connected(server) as client:
        client.send(data)
        assert await client.refusal() == (400, code or "invalid_request")


async def test_a_connection_too_many_closes_the_one_that_was_idle_longest() -> None:
    async with serving(App(), max_connections=3) as server, AsyncExitStack() as stack:
        first, second, third = [
            await stack.enter_async_context(connected(server)) for _ in range(3)
        ]
        assert await first.is_open()  # now the second is idle longest
        fourth = await stack.enter_async_context(connected(server))
        await second.ended()
        for one in (first, third, fourth):
            assert await one.is_open()


async def test_a_body_that_nobody_waits_for_makes_room_too() -> None:
    async with serving(App(), max_connections=1) as server, AsyncExitStack() as stack:
        first = await stack.enter_async_context(connected(server))
        first.send(HEAD.replace("POST /", "POST /deaf"))
        assert (await first.answer())[0] == 200
        second = await stack.enter_async_context(connected(server))
        await first.ended()
        second.send(HEAD)
        await asyncio.sleep(0.05)
        third = await stack.enter_async_context(connected(server))
        assert await third.refusal() == (503, "too_many_connections")
        second.send("0123456789")
        assert (await second.answer())[2] == b"10"


async def test_where_all_are_being_answered_the_newest_is_refused() -> None:
    app = App()
    async with serving(app, max_connections=2) as server, AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(connected(server)) for _ in range(2)]
        for one in busy:
            app.begun.clear()
            one.send(GET.replace("/ ", "/slow "))
            await app.begun.wait()
        late = await stack.enter_async_context(connected(server))
        assert await late.refusal() == (503, "too_many_connections")
        app.go_on.set()
        for one in busy:
            assert (await one.answer())[0] == 200


def test_as_many_files_as_the_system_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [1024, 5000]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.__setitem__(0, both[0]))
    assert allow_many_files() == 5000 - OWN_FILES
    assert limits == [5000, 5000]
    limits[:] = [1024, resource.RLIM_INFINITY]
    assert allow_many_files() > 10**6


async def test_a_refusal_that_nobody_reads_does_not_keep_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LAST_WORD_S", 0.05)
    async with serving(App(), head_timeout_s=SHORT_S) as server, connected(server) as silent:
        silent.writer.transport.pause_reading()  # type: ignore[attr-defined]
        silent.send("GET / ")
        state = server.server_state
        async with asyncio.timeout(5):
            while not state.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            while state.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not server.config.resting  # type: ignore[attr-defined]
