"""One connection to NATS that is made, and made again, for ever."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from nats import errors
from nats.aio.client import Client, Server

from rondo.bus.delivery import LOG_INTERVAL_S
from rondo.bus.nats_servers import ServerRing
from rondo.bus.nats_transport import Transport
from rondo.bus.permissions import inbox_prefix
from rondo.bus.tasks import end_task
from rondo.bus.tls import TlsFiles
from rondo.errors import BusUnavailable

log = logging.getLogger("rondo.bus")

#: With the server's own settings (docs/operations), a dead peer is noticed within some seconds.
PING_INTERVAL_S = 2
MAX_OUTSTANDING_PINGS = 2
CONNECT_TIMEOUT_S = 2
CLOSE_TIMEOUT_S = 2.0
#: How long a publisher waits for the socket when the outgoing buffer is full.
FLUSH_TIMEOUT_S = 2.0
#: How long nats-py waits, when closed, for a reconnect in progress; we choose the other waits.
CLOSE_RECONNECT_S = 0.5
#: A connection that lived shorter than this is followed by the backoff of a failed one.
STABLE_S = 2.0
#: The same error is logged once in LOG_INTERVAL_S; so many different ones are remembered.
MAX_QUIET = 64


class DialError(Exception):
    """A try to connect failed. Raised through nats-py, which would otherwise retry by itself."""


class Link:
    """Owns the nats-py client.

    nats-py reconnects by itself after most losses; where it gives up (the server refused it with
    a protocol error), the link makes a new client and `on_new_client` restores the subscriptions.

    Args:
        tls: files for TLS; with any, or a tls:// address, nothing is said without it.
        read_every_s: see Transport.
        on_new_client: called with each new client, once it is connected.
        on_up: called after each reconnect, when subscriptions are in place.
        on_slow: called with the subject of each message nats-py dropped.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        pending_bytes: int,
        tls: TlsFiles,
        read_every_s: float,
        on_new_client: Callable[[Client], Awaitable[None]],
        on_up: Callable[[], None],
        on_slow: Callable[[str], None],
    ) -> None:
        self._ring = ServerRing(url, name)
        self.url = self._ring.url
        self.user = self._ring.user
        self._tls_only = bool(tls) or self._ring.tls
        self._ssl_context = tls.context() if self._tls_only else None
        self._name = name
        self._pending_bytes = pending_bytes
        self._read_every_s = read_every_s
        self._on_new_client = on_new_client
        self._on_up = on_up
        self._on_slow = on_slow
        self._client: Client | None = None
        self._closed = False
        self._revival: asyncio.Task[None] | None = None
        self._up_at_s = 0.0
        self._quiet_until_s: dict[str, float] = {}
        self.up = asyncio.Event()
        """Set while connected."""

    @property
    def connected(self) -> bool:
        """Whether messages can be sent now."""
        return not self._closed and self._client is not None and self._client.is_connected

    @property
    def in_cluster(self) -> bool:
        """Whether it is connected to a server that is one of several."""
        client = self._client
        return client is not None and self.connected and "cluster" in client._server_info

    @property
    def address(self) -> str:
        """The server that is used or tried, without credentials."""
        return self._ring.address

    def client(self) -> Client:
        """The client, connected or reconnecting.

        Raises:
            BusUnavailable: never connected, or closed.
        """
        if self._client is None or self._closed:
            raise BusUnavailable(self.url, "closed" if self._closed else "not connected")
        if self._client.is_closed:
            self._revive()
        return self._client

    def connected_client(self) -> Client:
        """The client, for what needs an answer now.

        Raises:
            BusUnavailable: not connected.
        """
        client = self.client()
        if not client.is_connected:
            raise BusUnavailable(self.url, "not connected")
        return client

    async def connect(self) -> None:
        """Connects, trying for ever; does nothing on a connected link."""
        if self._closed:
            raise BusUnavailable(self.url, "closed")
        if self._client is None:
            await self._dial()

    async def close(self) -> None:
        """Disconnects, for good."""
        self._closed = True
        self.up.clear()
        await end_task(self._revival)
        if self._client:
            await _close(self._client)

    async def _dial(self) -> None:
        for servers, wait_s in self._ring.first_tries():
            try:
                client = await self._new_client(servers)
                break
            except DialError as error:
                self._log_failed_try(error)
            await asyncio.sleep(wait_s)
        self._client = client
        self._came_up()
        log.info("bus_connected address=%s", self._ring.address)
        await self._on_new_client(client)

    async def _new_client(self, servers: list[str]) -> Client:
        """One try, at the first of the servers; the others are for later reconnects."""
        client = Client()
        # There is no public way to choose it.
        client._transport = Transport(tls_only=self._tls_only, read_every_s=self._read_every_s)
        dialling = True

        async def on_error(error: Exception) -> None:
            if dialling:
                raise DialError(_text(error)) from error
            self._on_error(error)

        async def on_disconnected() -> None:
            if not dialling:
                self._went_down()

        async def on_reconnected() -> None:
            self._came_back()

        async def on_closed() -> None:
            if not dialling:
                self._revive()

        callbacks = {
            "error_cb": on_error,
            "disconnected_cb": on_disconnected,
            "reconnected_cb": on_reconnected,
            "closed_cb": on_closed,
        }
        await self._try(client, servers, callbacks)
        dialling = False
        return client

    async def _try(self, client: Client, servers: list[str], more: dict[str, Any]) -> None:
        try:
            await client.connect(servers=servers, name=self._name, **more, **self._options())
            if not client.is_connected:
                raise DialError("the server closed the connection")
        except BaseException as error:
            # Whoever cancels the dialling must not inherit its socket and tasks.
            with contextlib.suppress(DialError):
                await _close(client)
            if isinstance(error, DialError) or not isinstance(error, Exception):
                raise
            raise DialError(_text(error)) from error

    def _options(self) -> dict[str, Any]:
        return {
            "dont_randomize": True,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": CLOSE_RECONNECT_S,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "ping_interval": PING_INTERVAL_S,
            "max_outstanding_pings": MAX_OUTSTANDING_PINGS,
            "flush_timeout": FLUSH_TIMEOUT_S,
            "pending_size": self._pending_bytes,
            "reconnect_to_server_handler": self._pick_server,
            "inbox_prefix": inbox_prefix(self.user),
            **({"tls": self._ssl_context} if self._ssl_context else {}),
            **self._ring.credentials(),
        }

    def _pick_server(self, servers: list[Server], _: dict[str, Any]) -> tuple[Server | None, float]:
        """Where nats-py tries next, and after which wait."""
        if self._closed:
            # nats-py loses a cancellation that meets a failing connect; so its loop ends here.
            raise asyncio.CancelledError
        return self._ring.next(servers)

    def _revive(self) -> None:
        """nats-py has closed the client for good: make a new one."""
        if self._closed or (self._revival and not self._revival.done()):
            return
        log.warning("bus_refused address=%s, connecting anew", self._ring.address)
        self._client = None

        async def revive() -> None:
            await self._dial()
            self._came_back()

        self._revival = asyncio.create_task(revive())

    def _came_up(self) -> None:
        self._up_at_s = time.monotonic()
        self.up.set()

    def _came_back(self) -> None:
        self._came_up()
        log.info("bus_reconnected address=%s", self._ring.address)
        self._on_up()

    def _went_down(self) -> None:
        self.up.clear()
        if time.monotonic() - self._up_at_s > STABLE_S:
            self._ring.stable()
        if not self._closed:
            log.warning("bus_disconnected address=%s", self._ring.address)

    def _on_error(self, error: Exception) -> None:
        if isinstance(error, errors.SlowConsumerError):
            self._on_slow(error.subject)
        elif not self.up.is_set():
            self._log_failed_try(error)
        elif not isinstance(error, errors.StaleConnectionError):  # followed by a disconnect
            self._log_error(_text(error))

    def _log_error(self, text: str) -> None:
        """Once in a while: what permissions forbid may be tried with every message."""
        now_s = time.monotonic()
        if now_s < self._quiet_until_s.get(text, 0.0):
            return
        if len(self._quiet_until_s) >= MAX_QUIET:
            self._quiet_until_s.clear()
        self._quiet_until_s[text] = now_s + LOG_INTERVAL_S
        log.warning('bus_error address=%s error="%s"', self._ring.address, text)

    def _log_failed_try(self, error: Exception) -> None:
        log.warning('bus_connect_failed address=%s error="%s"', self._ring.address, _text(error))


@contextlib.contextmanager
def unavailable(url: str, doing: str) -> Iterator[None]:
    """Turns the client's errors into BusUnavailable."""
    try:
        yield
    except errors.Error as error:
        raise BusUnavailable(url, f"{doing}: {error}") from error


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


async def _close(client: Client) -> None:
    if not client.is_connected:
        # nats-py would write it to the lost connection, fail, and leave its subscriptions running.
        client._pending, client._pending_data_size = [], 0
    for _ in range(2):
        # A peer that does not read must not keep us from stopping.
        with contextlib.suppress(errors.Error, OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await client.close()
        if client.is_closed:
            return  # else a reconnect in progress has won against the close
