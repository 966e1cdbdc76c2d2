"""The HTTP server: uvicorn on the gateway's own port and, with others, on an inherited socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from rondo.errors import ConfigError
from rondo.service.sockets import bound
from rondo_gateway.security.connections import HttpConfig
from rondo_gateway.security.files import allow_many_files
from rondo_gateway.security.http_limits import HttpLimits
from rondo_gateway.security.tls import Tls
from rondo_gateway.settings import GatewaySettings

#: What a drain has left over is cut within this time.
SHUTDOWN_TIMEOUT_S = 2


class GatewayServer(uvicorn.Server):
    """uvicorn without signal handlers of its own: the program has them.

    Raises:
        ConfigError: the port is taken, or what was inherited is no socket.
    """

    def __init__(self, app: ASGIApp, settings: GatewaySettings, tls: Tls | None = None) -> None:
        self._own = bound(settings.http_host, settings.http_port, "RONDO_HTTP_PORT")
        self.port: int = self._own.getsockname()[1]
        """The gateway's own port."""
        self._shared = _inherit(settings.http_fd) if settings.http_fd else None
        limits = HttpLimits(
            idle_s=settings.idle_timeout_s,
            head_s=settings.head_timeout_s,
            body_s=settings.body_timeout_s,
            connections=min(settings.max_connections, allow_many_files()),
        )
        config = HttpConfig(app, limits, tls.context if tls else None, SHUTDOWN_TIMEOUT_S)
        super().__init__(config)
        # Below that it has a line for every request of a stranger that is none.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self.servers = []  # uvicorn has none before its start

    async def run_until_told(self) -> None:
        """Serves the own port until `should_exit` is set."""
        await self.serve(sockets=[self._own])

    async def share(self) -> None:
        """Takes connections of the inherited socket, too, if there is one."""
        if self._shared is None or self.should_exit:
            return
        listener = await asyncio.get_running_loop().create_server(
            lambda: self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
            ),
            sock=self._shared,
            ssl=self.config.ssl,
            backlog=self.config.backlog,
        )
        self.servers.append(listener)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See the class."""
        yield


def _inherit(number: int) -> socket.socket:
    """The socket that whoever started this gateway listens on."""
    try:
        return socket.socket(fileno=number)
    except OSError as error:
        raise ConfigError("RONDO_HTTP_FD", f"{number} is no socket: {error}") from error
