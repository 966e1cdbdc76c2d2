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

    Towards a peer that went silent with data underway, nats-py would wait for the kernel to give
    up, which takes minutes, and only then reconnect. And it forgets sockets of failed handshakes.

    Args:
        tls_only: says nothing before the connection is encrypted. nats-py would give its password
            to whoever answers in the server's place and just does not speak of TLS.
    """

    def __init__(self, *, tls_only: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._may_write = not tls_only
        self._tls_only = tls_only

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
