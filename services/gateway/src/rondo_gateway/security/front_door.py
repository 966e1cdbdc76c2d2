"""The front door as the settings want it: keys, TLS, who may come in, and what is read again."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from rondo.errors import ConfigError
from rondo_gateway.security.credentials import is_loopback
from rondo_gateway.security.gate import Door
from rondo_gateway.security.key_ring import SETTING, KeyRing
from rondo_gateway.security.reload import WatchedFiles
from rondo_gateway.security.tls import Tls, tls_of
from rondo_gateway.settings import GatewaySettings


class FrontDoor:
    """See the module.

    Raises:
        ConfigError: a file is wrong; or there are no keys, others can reach the port, and
            nothing says that this is meant.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        keys = KeyRing(Path(settings.keys)) if settings.keys else None
        if keys is None and not settings.allow_no_keys:
            _check_private(settings)
        self.tls: Tls | None = tls_of(settings.http_tls_cert, settings.http_tls_key)
        self.door = Door(
            keys=keys,
            loopback_only=keys is None and not settings.allow_no_keys,
            metrics=settings.metrics_access,
            origins=_origins(settings.cors_origins),
        )
        self._watched: list[WatchedFiles] = []
        if keys is not None:
            self._watched.append(WatchedFiles("keys", [keys.path], keys.load))
        if self.tls is not None:
            self._watched.append(WatchedFiles("certificate", self.tls.paths, self.tls.load))

    async def watch(self) -> None:
        """Reads files again when they change, until cancelled."""
        await asyncio.gather(*(watched.run() for watched in self._watched))


def _check_private(settings: GatewaySettings) -> None:
    hosts = [settings.http_host]
    if settings.http_fd:
        with socket.socket(fileno=settings.http_fd) as shared:
            try:
                hosts.append(str(shared.getsockname()[0]))
            finally:
                shared.detach()
    for host in hosts:
        if not is_loopback(host):
            problem = (
                f"is not set, but others can reach {host}: make a key file with `rondo keys new`, "
                "or set RONDO_ALLOW_NO_KEYS=true if everybody may come in"
            )
            raise ConfigError(SETTING, problem)


def _origins(text: str) -> frozenset[str]:
    origins = frozenset(filter(None, (part.strip() for part in text.split(","))))
    for origin in sorted(origins):
        scheme, separator, host = origin.partition("://")
        if origin != "*" and not (scheme in ("http", "https") and separator and host.strip("/")):
            raise ConfigError("RONDO_CORS_ORIGINS", f"{origin!r} is no origin like https://host")
        if origin.endswith("/"):
            raise ConfigError("RONDO_CORS_ORIGINS", f"{origin!r}: an origin ends without a '/'")
    return origins
