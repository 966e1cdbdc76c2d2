"""Starts a coordinator: settings, bus, service, health port."""

from __future__ import annotations

import asyncio
import logging
import sys
import uuid

from prometheus_client import CollectorRegistry

from rondo import tracing
from rondo.bus.nats import NatsBus
from rondo.journal import Ending
from rondo.journal_writer import JournalFolder
from rondo.service import logs
from rondo.service.health import HealthServer
from rondo.service.program_metrics import add_program_metrics
from rondo.service.runtime import run_program, unless_stopped
from rondo.service.settings import valid_id
from rondo_coordinator.metrics import CoordinatorMetrics
from rondo_coordinator.service import CoordinatorService
from rondo_coordinator.settings import CoordinatorSettings

log = logging.getLogger("rondo.coordinator")

#: Beats may wait so long: a wake-up takes those of many instances. Far below any time-out.
BEATS_EVERY_S = 0.25


async def serve(settings: CoordinatorSettings, stop: asyncio.Event) -> None:
    """Runs the coordinator until `stop` is set."""
    random_id = f"c-{uuid.uuid4().hex[:8]}"
    own_id = valid_id("RONDO_COORDINATOR_ID", settings.coordinator_id or random_id)
    settings.check()  # what is wrong must stop the program, not a later take-over
    registry = CollectorRegistry()
    metrics = CoordinatorMetrics(registry)
    url, tls = settings.nats_url, settings.nats_tls()
    bus = NatsBus(url, name=own_id, tls=tls)
    beats = NatsBus(url, name=f"{own_id}-beats", tls=tls, read_every_s=BEATS_EVERY_S)
    add_program_metrics(registry, settings, own_id, bus)
    tracing.start(settings.traces, "rondo-coordinator", own_id)
    service = CoordinatorService(
        bus,
        own_id,
        settings.make_policy,
        metrics,
        instance_timeout_s=settings.instance_timeout_s,
        lease_s=settings.lease_s,
        scaling=settings,
        journals=open_journals(settings, own_id, metrics),
        beats=beats,
    )

    def not_ready() -> str | None:
        if not bus.connected:
            return f"no connection to the bus at {bus.url}"
        return None if service.started else "still subscribing"

    health = HealthServer(settings, not_ready, registry)
    port = await health.start()
    logs.info(log, "starting", coordinator=own_id, http_port=port, policy=settings.policy)
    try:
        if await unless_stopped(stop, _begin(bus, beats, service)):
            logs.info(log, "ready", coordinator=own_id)
            await stop.wait()
        await service.stop()
    finally:
        await beats.close()
        await bus.close()
        await health.stop()


async def _begin(bus: NatsBus, beats: NatsBus, service: CoordinatorService) -> None:
    await bus.connect()
    await beats.connect()
    await service.start()


def open_journals(
    settings: CoordinatorSettings, own_id: str, metrics: CoordinatorMetrics
) -> JournalFolder | None:
    """Where decisions are recorded, if they are. A disk that fails stops no coordinator."""
    folder = settings.journal_folder()
    if folder is None:
        return None

    def stopped(ending: Ending, detail: str) -> None:
        metrics.journals_stopped.labels(ending.value).inc()
        logs.warning(log, "journal_stopped", reason=ending.value, detail=detail)

    return JournalFolder(
        folder,
        settings.policy,
        settings.policy_settings(),
        own_id,
        stopped,
        max_bytes=settings.journal_max_bytes,
    )


def main() -> int:
    """Entry point."""
    return run_program("rondo-coordinator", CoordinatorSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
