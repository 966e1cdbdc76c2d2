"""Starts a gateway: settings, models, bus, HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import uuid

from prometheus_client import CollectorRegistry

from rondo import tracing
from rondo.bus.nats import NatsBus
from rondo.bus.tasks import end_task
from rondo.service import logs
from rondo.service.health import write_state
from rondo.service.program_metrics import add_program_metrics
from rondo.service.runtime import run_program, unless_stopped
from rondo.service.settings import valid_id
from rondo_gateway.answers import Answers
from rondo_gateway.app import Api, create_app
from rondo_gateway.attempt import Links
from rondo_gateway.console.api import Console
from rondo_gateway.directory import Directory
from rondo_gateway.drain import Drain
from rondo_gateway.lengths import OutputLengths
from rondo_gateway.metrics import GatewayMetrics
from rondo_gateway.security.front_door import FrontDoor
from rondo_gateway.server import GatewayServer
from rondo_gateway.settings import GatewaySettings
from rondo_gateway.text.model_files import ModelFiles

log = logging.getLogger("rondo.gateway")

#: A shared socket is served once the bus is joined, or after this time: clients wait for neither.
JOIN_PATIENCE_S = 3.0


async def serve(settings: GatewaySettings, stop: asyncio.Event) -> None:
    """Runs the gateway until `stop` is set, and then until its answers are complete."""
    front = FrontDoor(settings)
    folders = settings.model_folders()
    models = {name: ModelFiles.load(name, folder) for name, folder in folders.items()}
    lengths = OutputLengths.of(settings)
    gateway_id = valid_id("RONDO_GATEWAY_ID", settings.gateway_id or f"g-{uuid.uuid4().hex[:8]}")
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    bus = NatsBus(settings.nats_url, name=gateway_id, tls=settings.nats_tls())
    add_program_metrics(registry, settings, gateway_id, bus)
    tracing.start(settings.traces, "rondo-gateway", gateway_id)
    metrics.watch_models(list(models))
    answers = Answers(bus, gateway_id, metrics)
    directory = Directory(answers.instance_changed)
    links = Links(bus, gateway_id, answers, directory, lengths, metrics, settings)
    api = Api(links, models, directory, registry)
    drain = Drain(create_app(api, settings.max_body_bytes, front.door, metrics))
    server = GatewayServer(drain, settings, front.tls)
    serving = asyncio.create_task(server.run_until_told())
    watching = asyncio.create_task(front.watch())
    joined = asyncio.Event()
    sharing = asyncio.create_task(_share(server, joined))
    write_state(settings, server.port)
    logs.info(log, "starting", gateway=gateway_id, http_port=server.port)
    try:
        if await unless_stopped(stop, _join(bus, links, api.console)):
            joined.set()
            api.batches.host.start()
            logs.info(log, "ready", gateway=gateway_id, models=list(models))
            await stop.wait()
        await end_task(sharing)
        await api.console.close()
        await api.batches.host.stop()
        await drain.drain(server, settings.drain_timeout_s, _second_signal())
    finally:
        server.should_exit = True
        await serving
        await end_task(watching)
        await bus.close()
        lengths.close()


async def _share(server: GatewayServer, joined: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(JOIN_PATIENCE_S):
            await joined.wait()
    await server.share()


def _second_signal() -> asyncio.Event:
    """Set when the program is told once more to stop."""
    again = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, again.set)
    return again


async def _join(bus: NatsBus, links: Links, console: Console) -> None:
    await bus.connect()
    await links.answers.start()
    await links.directory.start(bus)
    await console.start()


def main() -> int:
    """Entry point."""
    return run_program("rondo-gateway", GatewaySettings, serve)


if __name__ == "__main__":
    sys.exit(main())
