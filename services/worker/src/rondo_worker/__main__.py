"""Starts a worker: settings, engine, bus, service, health port."""

from __future__ import annotations

import asyncio
import logging
import sys
import uuid

from prometheus_client import CollectorRegistry

from rondo.bus.nats import NatsBus
from rondo.perf.profile import LatencyProfile, load_profile
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.service import logs
from rondo.service.health import HealthServer
from rondo.service.runtime import run_program, unless_stopped
from rondo.service.settings import valid_id
from rondo.wire.messages import InstanceRecord
from rondo_worker.engines.base import Engine
from rondo_worker.metrics import WorkerMetrics
from rondo_worker.service import WorkerService
from rondo_worker.settings import WorkerSettings

log = logging.getLogger("rondo.worker")


def load_engine(settings: WorkerSettings) -> tuple[Engine, LatencyProfile]:
    """The engine of the settings, and the latencies that schedulers should expect of it.

    Raises:
        ConfigError: the model, the profile or a setting is wrong.
    """
    from rondo_worker.engines.emulated import EmulatedEngine

    if settings.engine == "emulated":
        profile = load_profile(settings.profile)
        emulated = EmulatedEngine.from_model(
            settings.model,
            profile,
            model_name=settings.model_name or None,
            num_blocks=settings.num_blocks or None,
            max_model_len=settings.max_model_len or None,
        )
        return emulated, profile
    # torch takes seconds to import, and a worker of emulated engines need not have it.
    from rondo_worker.engines.calibrate import calibrate
    from rondo_worker.engines.torch import TorchEngine

    engine = TorchEngine.load(
        settings.model,
        model_name=settings.model_name or None,
        device=settings.device,
        dtype=settings.dtype,
        block_size=settings.block_size,
        num_blocks=settings.num_blocks or None,
        max_model_len=settings.max_model_len or None,
        num_threads=settings.threads or None,
    )
    return engine, calibrate(engine)


async def serve(settings: WorkerSettings, stop: asyncio.Event) -> None:
    """Runs the worker until `stop` is set or its engine is beyond repair."""
    instance_id = valid_id("RONDO_INSTANCE_ID", settings.instance_id or f"w-{uuid.uuid4().hex[:8]}")
    registry = CollectorRegistry()
    bus = NatsBus(settings.nats_url, name=instance_id)
    state: dict[str, WorkerService] = {}
    problem = "the engine is loading"

    def not_ready() -> str | None:
        if "service" not in state:
            return problem
        if not bus.connected:
            return f"no connection to the bus at {bus.url}"
        return None if state["service"].registered else "not registered yet"

    health = HealthServer(settings, not_ready, registry)
    port = await health.start()
    logs.info(log, "starting", instance=instance_id, engine=settings.engine, http_port=port)
    try:
        engine, profile = await asyncio.to_thread(load_engine, settings)
        problem = f"no connection to the bus at {bus.url}"
        if not await unless_stopped(stop, bus.connect()):
            return
        died: list[Exception] = []

        def on_death(error: Exception) -> None:
            died.append(error)
            stop.set()

        scheduler = InstanceScheduler(
            KvLedger(engine.spec.num_blocks, engine.spec.block_size),
            max_running=settings.max_running,
            max_prefill_tokens=settings.max_prefill_tokens,
            eos_token_ids=engine.spec.eos_token_ids,
        )
        service = WorkerService(
            bus,
            _record(instance_id, engine, scheduler, profile),
            engine,
            scheduler,
            WorkerMetrics(registry),
            on_death,
        )
        state["service"] = service
        await unless_stopped(stop, service.start())
        logs.info(log, "ready", instance=instance_id, blocks=engine.spec.num_blocks)
        await stop.wait()
        await service.stop(0.0 if died else settings.drain_timeout_s)
        if died:
            raise SystemExit(1)
    finally:
        await bus.close()
        await health.stop()


def _record(
    instance_id: str, engine: Engine, scheduler: InstanceScheduler, profile: LatencyProfile
) -> InstanceRecord:
    spec = engine.spec
    return InstanceRecord(
        instance_id=instance_id,
        incarnation="",
        model=spec.model,
        engine=spec.engine,
        max_model_len=min(spec.max_model_len, spec.num_blocks * spec.block_size),
        block_size=spec.block_size,
        num_blocks=spec.num_blocks,
        max_running=scheduler.max_running,
        max_prefill_tokens=scheduler.max_prefill_tokens,
        profile=profile,
    )


def main() -> int:
    """Entry point."""
    return run_program("rondo-worker", WorkerSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
