"""Networks that lose or hold back what services say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from rondo.bus.memory import MemoryBroker
from rondo.bus.nats import NatsBus
from rondo.wire.codec import decode
from rondo.wire.messages import Message
from tests.support.buses import BusHarness, MemoryHarness, NatsHarness


class LossyBroker(MemoryBroker):
    """Loses what `lose` says, as a server does whose connection to a subscriber breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.lose: Callable[[str, Message], bool] = lambda subject, message: False
        self.lost: list[Message] = []

    def route(self, letter: Any) -> int:
        """Passes a message on, or not."""
        message = decode(letter.data)
        if self.lose(letter.subject, message):
            self.lost.append(message)
            return 1
        return super().route(letter)


def lossy(harness: BusHarness) -> LossyBroker:
    """Puts a lossy broker into an in-memory harness that has no connections yet."""
    assert isinstance(harness, MemoryHarness)
    harness.broker = broker = LossyBroker()
    return broker


class Relay:
    """A TCP relay in front of a server that can hold everything back, both ways."""

    def __init__(self, url: str) -> None:
        self._host, _, port = url.rpartition("//")[2].rpartition(":")
        self._port = int(port)
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Listens; the address for clients."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def hold(self) -> None:
        """Nothing gets through from now on; nobody is told."""
        self._open.clear()

    def release(self) -> None:
        """All that was held back arrives."""
        self._open.set()

    async def stop(self) -> None:
        """Ends all connections."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(self._host, self._port)
        for source, target in ((reader, server_writer), (server_reader, writer)):
            task = asyncio.create_task(self._pass_on(source, target))
            self._tasks.add(task)

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    await self._open.wait()
                    target.write(data)
                    await target.drain()
        finally:
            target.close()


@asynccontextmanager
async def behind_relay(harness: BusHarness, name: str) -> AsyncIterator[tuple[NatsBus, Relay]]:
    """A connection to a real server that can be held back without being lost."""
    assert isinstance(harness, NatsHarness)
    relay = Relay(harness.server.url)
    bus = NatsBus(await relay.start(), name=name)
    await bus.connect()
    try:
        yield bus, relay
    finally:
        relay.release()
        await bus.close()
        await relay.stop()
