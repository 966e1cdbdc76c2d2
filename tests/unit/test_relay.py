"""Tokens that go straight to the client: as much, and in the same order, as by its reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from starlette.types import Message

from rondo.types import FinishReason
from rondo.wire.messages import TokenDelta
from rondo_gateway.answers import Answer
from rondo_gateway.event_stream import DIRECT_SEND, EventStream
from rondo_gateway.news import News
from rondo_gateway.responses import ChunkEncoder, Head, Kind

STALL_S, PATIENCE_S = 30.0, 300.0


class Relayed:
    """Takes tokens until it has `room` for no more."""

    def __init__(self, room: int = 1000) -> None:
        self.tokens: list[int] = []
        self.room = room

    def __call__(self, tokens: Sequence[int]) -> bool:
        self.tokens += tokens
        self.room -= 1
        return self.room > 0


def delta(index: int, *tokens: int, finish: FinishReason | None = None) -> TokenDelta:
    return TokenDelta("r", index, tokens, finish)


def answer() -> tuple[Answer, list[int]]:
    asked: list[int] = []
    return Answer("r", lambda one: asked.append(one.num_tokens)), asked


async def reading(one: Answer) -> asyncio.Task[list[int]]:
    """A reader that waits."""
    task = asyncio.create_task(one.read(STALL_S, PATIENCE_S))
    await asyncio.sleep(0)
    return task


async def test_tokens_are_relayed_while_the_reader_waits_and_only_then() -> None:
    one, asked = answer()
    relayed = Relayed()
    one.relay(relayed)
    one.take(delta(0, 1))  # nobody waits yet
    assert await one.read(STALL_S, PATIENCE_S) == [1]
    reader = await reading(one)
    one.take(delta(1, 2))
    one.take(delta(2, 3, 4))
    assert relayed.tokens == [2, 3, 4]
    one.take(delta(1, 2))  # known: nothing is shown twice
    one.take(delta(6, 9))  # a hole before it
    assert (relayed.tokens, asked) == ([2, 3, 4], [4])
    one.take(delta(4, 5, finish=FinishReason.LENGTH))  # an end is for the reader
    assert await reader == [5]
    assert one.finish is FinishReason.LENGTH
    assert one.num_tokens == 5
    one.close()


async def test_a_relay_without_room_leaves_the_rest_to_the_reader() -> None:
    one, _ = answer()
    relayed = Relayed(room=1)
    one.relay(relayed)
    reader = await reading(one)
    one.take(delta(0, 1))
    one.take(delta(1, 2))
    assert relayed.tokens == [1]
    assert await reader == [2]
    one.close()


async def test_what_a_relay_raises_ends_the_answer_where_it_is_read() -> None:
    one, _ = answer()

    def fails(tokens: Sequence[int]) -> bool:
        raise OSError("no text for this")

    one.relay(fails)
    reader = await reading(one)
    one.take(delta(0, 1))
    with pytest.raises(OSError, match="no text for this"):
        await reader
    one.close()


async def test_relayed_tokens_are_no_silence() -> None:
    news = News()
    waiting = news.wait(0.6)
    for _ in range(8):
        await asyncio.sleep(0.1)
        news.put_off()
    assert not waiting.done()
    assert await waiting is False  # and then there was one
    news.close()


class Client:
    """A server's `send` to a client that reads, or does not."""

    def __init__(self) -> None:
        self.body = b""
        self.reads = asyncio.Event()
        self.reads.set()

    async def send(self, message: Message) -> None:
        await self.reads.wait()  # as uvicorn's: before it takes anything
        self.body += message.get("body", b"")


async def test_a_slow_client_gets_everything_in_order() -> None:
    client, frames = Client(), asyncio.Queue[bytes]()

    async def read() -> AsyncGenerator[bytes]:
        while frame := await frames.get():
            yield frame

    stream = EventStream(read(), lambda: None)
    assert not stream.takes

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    scope: dict[str, Any] = {"type": "http", DIRECT_SEND: client.send}
    serving = asyncio.create_task(stream(scope, receive, client.send))
    frames.put_nowait(b"a")
    for _ in range(5):
        await asyncio.sleep(0)
    assert client.body == b"a"
    assert stream.takes
    assert stream.put(b"b")
    client.reads.clear()
    assert not stream.put(b"c")  # kept
    frames.put_nowait(b"d")
    for _ in range(5):
        await asyncio.sleep(0)
    assert client.body == b"ab"
    client.reads.set()
    frames.put_nowait(b"")
    await serving
    assert client.body == b"abcd"


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("usage", [True, False])
def test_relayed_chunks_are_the_same_bytes(kind: Kind, usage: bool) -> None:
    encoder = ChunkEncoder(kind, Head("id", 1, "m", "fp"), include_usage=usage)
    chunk = encoder.plain(0)
    for text in ("a", 'quote " and \\', "line\u2028end", "\n"):
        assert chunk(text) == encoder.shaped(0, [text]) == encoder.content(0, text)
