"""Starts a gateway: settings, models, bus, HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import uuid
from collections.abc import Iterator

import uvicorn
from prometheus_client import CollectorRegistry

from rondo.bus.nats import NatsBus
from rondo.errors import ConfigError
from rondo.service import logs
from rondo.service.health import write_state
from rondo.service.runtime import run_program, unless_stopped
from rondo.service.settings import valid_id
from rondo_gateway.answers import Answers
from rondo_gateway.app import Api, create_app
from rondo_gateway.attempt import Links
from rondo_gateway.directory import Directory
from rondo_gateway.lengths import OutputLengths
from rondo_gateway.metrics import GatewayMetrics
from rondo_gateway.settings import GatewaySettings
from rondo_gateway.text.model_files import ModelFiles

log = logging.getLogger("rondo.gateway")

#: How long open streams may go on after the program was told to stop.
SHUTDOWN_TIMEOUT_S = 3


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the program has them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: GatewaySettings, stop: asyncio.Event) -> None:
    """Runs the gateway until `stop` is set."""
    folders = settings.model_folders()
    models = {name: ModelFiles.load(name, folder) for name, folder in folders.items()}
    gateway_id = valid_id("RONDO_GATEWAY_ID", settings.gateway_id or f"g-{uuid.uuid4().hex[:8]}")
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    bus = NatsBus(settings.nats_url, name=gateway_id)
    answers = Answers(bus, gateway_id, metrics)
    directory = Directory(answers.instance_changed)
    links = Links(bus, gateway_id, answers, OutputLengths(), metrics, settings)
    api = Api(links, models, directory, registry)
    listener = _listen(settings)
    config = uvicorn.Config(
        create_app(api, settings.max_body_bytes),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    write_state(settings, listener.getsockname()[1])
    logs.info(log, "starting", gateway=gateway_id, http_port=listener.getsockname()[1])
    try:
        if await unless_stopped(stop, _join(bus, answers, directory)):
            logs.info(log, "ready", gateway=gateway_id, models=list(models))
            await stop.wait()
    finally:
        server.should_exit = True
        await serving
        await bus.close()


async def _join(bus: NatsBus, answers: Answers, directory: Directory) -> None:
    await bus.connect()
    await answers.start()
    await directory.start(bus)


def _listen(settings: GatewaySettings) -> socket.socket:
    """The bound socket, so that the port is known (and taken) before anything else starts.

    Raises:
        ConfigError: the port is taken or the address is not ours.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.http_host, settings.http_port))
    except OSError as error:
        listener.close()
        where = f"{settings.http_host}:{settings.http_port}"
        raise ConfigError("RONDO_HTTP_PORT", f"cannot listen on {where}: {error}") from error
    return listener


def main() -> int:
    """Entry point."""
    return run_program("rondo-gateway", GatewaySettings, serve)


if __name__ == "__main__":
    sys.exit(main())
