"""One harness over both buses, so that one suite of tests can say what a bus is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from rondo.bus.memory import MemoryBroker, MemoryBus
from rondo.bus.nats import NatsBus
from rondo.bus.protocol import Bus, Incoming
from rondo.wire.messages import TokenDelta, TokenFrame
from tests.support.nats import NatsCluster, ServerUnderTest

SUBJECT = "rondo.v1.tok.g-1"


def frame(seq: int) -> TokenFrame:
    """A numbered message."""
    deltas = (TokenDelta("r-1", seq, (seq,)),)
    return TokenFrame(instance_id="w-1", incarnation="a", seq=seq, deltas=deltas)


def seqs(items: list[Incoming]) -> list[int]:
    """The numbers of messages made by `frame`."""
    return [item.message.seq for item in items if isinstance(item.message, TokenFrame)]


class BusHarness(Protocol):
    """A server, connections to it, and ways to hurt it."""

    def new_bus(self, name: str, *, buffer_bytes: int = 8 << 20) -> Bus:
        """A connection that is not connected yet."""
        ...

    async def bus(self, name: str, *, buffer_bytes: int = 8 << 20) -> Bus:
        """A connection."""
        ...

    async def interrupt(self) -> None:
        """All connections are lost."""
        ...

    async def restore(self, *, lose_store: bool = False) -> None:
        """The server is back."""
        ...

    async def inject(self, subject: str, data: bytes) -> None:
        """Sends raw bytes past the codec."""
        ...

    async def inject_value(self, bucket: str, key: str, data: bytes) -> None:
        """Writes raw bytes into an existing bucket."""
        ...

    def garbling(self, subject: str) -> AbstractAsyncContextManager[None]:
        """Somebody who answers requests on a subject with what is no message."""
        ...

    async def start(self) -> None:
        """Starts the server."""
        ...

    async def stop(self) -> None:
        """Ends all connections and the server."""
        ...


class MemoryHarness:
    """The in-memory bus."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self._buses: list[MemoryBus] = []

    def new_bus(self, name: str, *, buffer_bytes: int = 8 << 20) -> Bus:
        """A connection that is not connected yet."""
        self._buses.append(MemoryBus(self.broker, name=name, buffer_bytes=buffer_bytes))
        return self._buses[-1]

    async def bus(self, name: str, *, buffer_bytes: int = 8 << 20) -> Bus:
        """A connection."""
        bus = self.new_bus(name, buffer_bytes=buffer_bytes)
        await bus.connect()
        return bus

    async def interrupt(self) -> None:
        """All connections are lost."""
        self.broker.interrupt()

    async def restore(self, *, lose_store: bool = False) -> None:
        """The broker is back."""
        self.broker.restore(lose_store=lose_store)

    async def inject(self, subject: str, data: bytes) -> None:
        """Sends raw bytes past the codec."""
        self.broker.inject(subject, data)

    async def inject_value(self, bucket: str, key: str, data: bytes) -> None:
        """Writes raw bytes into a bucket."""
        self.broker.bucket(bucket).write(key, data)

    @asynccontextmanager
    async def garbling(self, subject: str) -> AsyncIterator[None]:
        """Somebody who answers requests on a subject with what is no message."""

        def garble(request: Incoming) -> None:
            assert isinstance(request.respond, partial)
            self.broker.inject(request.respond.args[0], b"garbage")

        answerer = await (await self.bus("garbling")).subscribe(subject, garble)
        yield
        await answerer.close()

    async def start(self) -> None:
        """There is nothing to start."""

    async def stop(self) -> None:
        """Ends all connections."""
        for bus in self._buses:
            await bus.close()


class NatsHarness:
    """NATS with a server of its own."""

    def __init__(self, run_dir: Path) -> None:
        self.server = ServerUnderTest(run_dir)
        self._buses: list[NatsBus] = []

    @property
    def url(self) -> str:
        """Where its connections go."""
        return self.server.url

    def new_bus(self, name: str, *, buffer_bytes: int = 8 << 20) -> Bus:
        """A connection that is not connected yet."""
        self._buses.append(NatsBus(self.url, name=name, buffer_bytes=buffer_bytes))
        return self._buses[-1]

    async def bus(self, name: str, *, buffer_bytes: int = 8 << 20) -> Bus:
        """A connection."""
        bus = self.new_bus(name, buffer_bytes=buffer_bytes)
        await bus.connect()
        return bus

    async def interrupt(self) -> None:
        """The server crashes."""
        await self.server.kill()

    async def restore(self, *, lose_store: bool = False) -> None:
        """The server is back on the same port."""
        await self.server.restart(lose_store=lose_store)

    async def inject(self, subject: str, data: bytes) -> None:
        """Sends raw bytes past the codec."""
        await self.server.publish(subject, data)

    async def inject_value(self, bucket: str, key: str, data: bytes) -> None:
        """Writes raw bytes into a bucket."""
        await self.server.publish(f"$KV.{bucket}.{key}", data)

    def garbling(self, subject: str) -> AbstractAsyncContextManager[None]:
        """Somebody who answers requests on a subject with what is no message."""
        return self.server.garbling(subject)

    async def start(self) -> None:
        """Starts the server."""
        await self.server.start()

    async def stop(self) -> None:
        """Ends all connections and the server."""
        for bus in self._buses:
            await bus.close()
        await self.server.stop()


class ClusterHarness(NatsHarness):
    """NATS with three servers; which of them a connection uses follows from its name."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)
        self.cluster = NatsCluster(run_dir)

    @property
    def url(self) -> str:
        """Where its connections go."""
        return self.cluster.url

    async def start(self) -> None:
        """Starts the servers."""
        await self.cluster.start()
        self.server = self.cluster.nodes[0]

    async def stop(self) -> None:
        """Ends all connections and the servers."""
        await super().stop()
        await self.cluster.stop()


_NATS = {"nats": NatsHarness, "cluster": ClusterHarness}


@asynccontextmanager
async def running(kind: str, run_dir: Path) -> AsyncIterator[BusHarness]:
    """A started harness; checks that nothing is left of it."""
    harness: BusHarness = MemoryHarness() if kind == "memory" else _NATS[kind](run_dir)
    before = asyncio.all_tasks()
    await harness.start()
    try:
        yield harness
    finally:
        await harness.stop()
    own = asyncio.current_task()
    left = [task for task in asyncio.all_tasks() - before if task is not own and not task.done()]
    assert not left, f"tasks left behind: {left}"


async def pair(harness: BusHarness) -> tuple[Bus, Bus]:
    """A sender and a receiver."""
    return await harness.bus("sender"), await harness.bus("receiver")
