"""The small HTTP port of coordinator and worker: /healthz, /readyz, /metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry

from rondo.errors import ConfigError
from rondo.service.scrape import scrape
from rondo.service.settings import BaseSettings


class HealthServer:
    """Serves health and metrics.

    Args:
        not_ready: returns why the program is not ready, or None when it is. A program that is
            alive but not ready answers 200 on /healthz and 503 on /readyz.
    """

    def __init__(
        self,
        settings: BaseSettings,
        not_ready: Callable[[], str | None],
        registry: CollectorRegistry,
    ) -> None:
        self._settings = settings
        self._not_ready = not_ready
        self._registry = registry
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Binds the port and returns it.

        Raises:
            ConfigError: the port is taken or the address is not ours.
        """
        app = web.Application()
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        host, port = self._settings.http_host, self._settings.http_port
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            raise ConfigError("RONDO_HTTP_PORT", f"cannot listen on {host}:{port}: {error}") from (
                error
            )
        bound: int = self._runner.addresses[0][1]
        write_state(self._settings, bound)
        return bound

    async def stop(self) -> None:
        """Closes the port."""
        if self._runner:
            await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _ready(self, _: web.Request) -> web.Response:
        problem = self._not_ready()
        if problem:
            return web.json_response({"status": "not ready", "problem": problem}, status=503)
        return web.json_response({"status": "ready"})

    async def _metrics(self, _: web.Request) -> web.Response:
        body = await scrape(self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


def write_state(settings: BaseSettings, port: int) -> None:
    """Tells the launcher which port was bound (atomically, so that it never reads half a file)."""
    if settings.state_file:
        path = Path(settings.state_file)
        draft = path.with_suffix(".tmp")
        draft.write_bytes(msgspec.json.encode({"port": port}))
        draft.replace(path)
