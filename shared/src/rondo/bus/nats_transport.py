"""The TCP connection under nats-py: ends soon after it is closed, and keeps to TLS."""

from __future__ import annotations

import asyncio
from ssl import SSLContext
from urllib.parse import ParseResult

from nats import errors
from nats.aio.transport import TcpTransport

#: How long a closed connection may go on sending what is underway.
ABORT_AFTER_S = 0.5


class Transport(TcpTransport):
    """A connection that ends soon after close(), and before the next one.

    Waking up for a small message costs far more than the message does. Where messages may wait, the
    socket is not listened to for `read_every_s` after each read; the kernel keeps what comes, and
    one wake-up takes all of it.

    Towards a peer that went silent with data underway, nats-py would wait for the kernel to give
    up, which takes minutes, and only then reconnect. And it forgets sockets of failed handshakes.

    Args:
        tls_only: says nothing before the connection is encrypted. nats-py would give its password
            to whoever answers in the server's place and just does not speak of TLS.
        read_every_s: how long what comes may wait; 0: not at all.
    """

    def __init__(self, *, tls_only: bool = False, read_every_s: float = 0.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._may_write = not tls_only
        self._tls_only = tls_only
        self._read_every_s = read_every_s
        self._more = False  # the last read did not take everything

    def __bool__(self) -> bool:
        return True  # nats-py replaces one that is false, as an unconnected one would be

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """Connects, after closing what was there."""
        self.close()
        self._may_write = not self._tls_only
        await super().connect(uri, buffer_size, connect_timeout)

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: SSLContext,
        buffer_size: int,
        connect_timeout: int,
    ) -> None:
        """Encrypts the connection; `uri` may be the name that the certificate must have."""
        await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)
        self._may_write = True

    async def read(self, buffer_size: int) -> bytes:
        """What has come, at most `buffer_size` bytes; empty at the end."""
        if self._read_every_s and not self._more:
            await self._rest()
        data: bytes = await super().read(buffer_size)
        self._more = len(data) == buffer_size
        return data

    async def _rest(self) -> None:
        writer = self._bare_io_writer  # under TLS, too: what is not read needs no decryption
        assert writer is not None  # connected
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        try:
            await asyncio.sleep(self._read_every_s)
        finally:
            writer.transport.resume_reading()  # type: ignore[attr-defined]

    def write(self, payload: bytes) -> None:
        """Buffers what is to be sent.

        Raises:
            errors.Error: it would go unencrypted where it must not.
        """
        if not self._may_write:
            raise errors.Error("the server offers no TLS, and NATS_URL or NATS_CA asks for it")
        super().write(payload)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Ends it, at the latest after ABORT_AFTER_S."""
        writer = self._io_writer
        super().close()  # type: ignore[no-untyped-call]
        if writer is not None:
            asyncio.get_running_loop().call_later(ABORT_AFTER_S, writer.transport.abort)
