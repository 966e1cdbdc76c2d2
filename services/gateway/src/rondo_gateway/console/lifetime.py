"""The collector and its stream exist while somebody looks, and a little longer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from rondo.bus.protocol import Bus
from rondo.bus.tasks import end_task
from rondo.errors import PeerError
from rondo_gateway.console.collector import Collector
from rondo_gateway.console.hub import Hub
from rondo_gateway.console.picture import Picture
from rondo_gateway.errors import ApiError

#: A page that is loaded again finds what it had.
LINGER_S = 30.0


class Lifetime:
    """Starts with the first viewer and stops after the last."""

    def __init__(self, bus: Bus, gateway_id: str) -> None:
        self._bus = bus
        self._gateway_id = gateway_id
        self._lock = asyncio.Lock()
        self._running: tuple[Collector, Hub] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._closed = False
        self.num_viewers = 0

    async def touch(self) -> Picture:
        """What is known; somebody looks, if only for a moment.

        Raises:
            ApiError: as `frames`.
        """
        picture = (await self._start())[0].picture
        self._linger_if_alone()
        return picture

    async def frames(self, last_id: str) -> AsyncGenerator[bytes]:
        """A viewer's stream, until it is closed or the gateway stops.

        Raises:
            ApiError: the bus is not there, or the gateway stops.
        """
        self.num_viewers += 1
        try:
            _, hub = await self._start()
            async with contextlib.aclosing(hub.frames(last_id)) as frames:
                async for frame in frames:
                    yield frame
        finally:
            self.num_viewers -= 1
            self._linger_if_alone()

    async def close(self) -> None:
        """Ends all streams, for good."""
        self._closed = True
        await end_task(self._ending)
        async with self._lock:
            await self._stop()

    def _linger_if_alone(self) -> None:
        if self.num_viewers or self._closed:
            return
        ending, self._ending = self._ending, asyncio.create_task(self._linger())
        if ending:
            ending.cancel()

    async def _start(self) -> tuple[Collector, Hub]:
        async with self._lock:
            if self._closed:
                raise ApiError(503, "The gateway is stopping.", code="stopping", retry_after_s=1.0)
            if self._running is None:
                if not self._bus.connected:
                    raise _no_bus(self._bus.url)
                collector = Collector(self._bus, self._gateway_id)
                try:
                    await collector.start()
                except PeerError as error:
                    await collector.stop()
                    raise _no_bus(self._bus.url) from error
                hub = Hub(collector)
                hub.start()
                self._running = collector, hub
            return self._running

    async def _linger(self) -> None:
        await asyncio.sleep(LINGER_S)
        async with self._lock:
            if not self.num_viewers:
                await self._stop()

    async def _stop(self) -> None:
        if self._running:
            (collector, hub), self._running = self._running, None
            await hub.stop()
            await collector.stop()


def _no_bus(url: str) -> ApiError:
    message = f"No connection to the bus at {url}."
    return ApiError(503, message, code="no_bus", retry_after_s=1.0)
