"""Networks that lose or hold back what services say, and engines that fail."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from rondo.bus.memory import MemoryBroker
from rondo.bus.nats import NatsBus
from rondo.errors import EngineError
from rondo.policy.plan import StepPlan
from rondo.wire.codec import decode
from rondo.wire.messages import Message
from rondo_worker.engines.emulated import EmulatedEngine
from tests.support.buses import BusHarness, MemoryHarness, NatsHarness
from tests.support.services import FAST, ORDINARY, SPEC


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


class FailingEngine(EmulatedEngine):
    """Fails in steps with a request named `bad...`, so many times.

    Args:
        blames: it names the culprits, and not all of its step.
        largest: it fails for steps of more requests, too.
        error: what it raises where it is no error of an engine.
    """

    def __init__(
        self,
        times: int,
        *,
        blames: bool = True,
        largest: int = 1000,
        error: type[Exception] | None = None,
    ) -> None:
        super().__init__(SPEC, FAST, ORDINARY)
        self._times = times
        self._blames = blames
        self._largest = largest
        self._error = error

    def step(self, plan: StepPlan) -> dict[str, int]:
        ids = tuple(item.request_id for item in plan.items)
        bad = tuple(request_id for request_id in ids if request_id.startswith("bad"))
        if (bad or len(ids) > self._largest) and self._times:
            self._times -= 1
            if self._error:
                raise self._error("out of luck")
            raise EngineError("out of luck", bad if self._blames else ids)
        return super().step(plan)
