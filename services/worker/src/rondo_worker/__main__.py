"""Starts a worker: settings, engine, bus, service, health port."""

from __future__ import annotations

import asyncio
import logging
import sys
import uuid
from typing import Any

from prometheus_client import CollectorRegistry

from rondo import tracing
from rondo.bus.nats import NatsBus
from rondo.perf.profile import LatencyProfile, load_profile
from rondo.policy.tdpipe import PipeInstance
from rondo.service import logs
from rondo.service.health import HealthServer
from rondo.service.program_metrics import add_program_metrics
from rondo.service.runtime import run_program, unless_stopped
from rondo.service.settings import valid_id
from rondo.wire.messages import InstanceRecord
from rondo_worker.cores import pin_process
from rondo_worker.engines.base import Engine
from rondo_worker.faults import Faults
from rondo_worker.instance_setup import check_instance_policy, make_instance_scheduler
from rondo_worker.metrics import WorkerMetrics
from rondo_worker.pipe_loop import AnyScheduler
from rondo_worker.pipe_setup import (
    BACKGROUND_POOLS,
    check_pipeline_policy,
    make_pipe_instance,
)
from rondo_worker.service import WorkerService
from rondo_worker.settings import WorkerSettings

log = logging.getLogger("rondo.worker")

#: Tokens in a KV block of the torch engine.
DEFAULT_BLOCK_SIZE = 16


def load_engine(settings: WorkerSettings) -> tuple[Engine, LatencyProfile]:
    """The engine of the settings, and the latencies that schedulers should expect of it.

    Raises:
        ConfigError: the model, the profile or a setting is wrong.
    """
    from rondo_worker.engines.calibrate import calibrate

    if settings.engine == "emulated":
        from rondo_worker.engines.emulated import EmulatedEngine

        profile = load_profile(settings.profile)
        sizes = _sizes(settings)
        return EmulatedEngine.from_model(settings.model, profile, **sizes), profile
    load = {"torch": _load_torch, "pipeline": _load_pipeline, "vllm": _load_vllm}[settings.engine]
    engine = load(settings)
    return engine, calibrate(engine)


def _sizes(settings: WorkerSettings) -> dict[str, Any]:
    """What every engine takes; None leaves it to the engine."""
    return {
        "model_name": settings.model_name or None,
        "num_blocks": settings.num_blocks or None,
        "max_model_len": settings.max_model_len or None,
    }


def _load_torch(settings: WorkerSettings) -> Engine:
    # It takes seconds to import, and a worker of another engine need not have it.
    from rondo_worker.engines.torch import TorchEngine

    return TorchEngine.load(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        block_size=settings.block_size or DEFAULT_BLOCK_SIZE,
        num_threads=settings.threads or None,
        native=settings.native,
        graphs=settings.compile != "off",
        kv_memory_bytes=settings.kv_memory_mib * 2**20 or None,
        **_sizes(settings),
    )


def _load_pipeline(settings: WorkerSettings) -> Engine:
    from rondo_worker.engines.pipeline import PipelineEngine
    from rondo_worker.engines.pipeline.split import parse_stage_cores

    return PipelineEngine.load(
        settings.model,
        num_stages=settings.pipeline_parallel,
        cores=parse_stage_cores(settings.stage_cores, settings.pipeline_parallel),
        device=settings.device,
        dtype=settings.dtype,
        block_size=settings.block_size or DEFAULT_BLOCK_SIZE,
        num_threads=settings.threads or None,
        native=settings.native,
        kv_memory_bytes=settings.kv_memory_mib * 2**20 or None,
        **_sizes(settings),
    )


def _load_vllm(settings: WorkerSettings) -> Engine:
    from rondo_worker.engines.vllm import VllmEngine

    return VllmEngine.load(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        block_size=settings.block_size or None,
        num_threads=settings.threads or None,
        max_running=settings.max_running,
        max_prefill_tokens=settings.max_prefill_tokens,
        tensor_parallel=settings.tensor_parallel,
        pipeline_parallel=settings.pipeline_parallel,
        kv_memory_bytes=settings.kv_memory_mib * 2**20 or None,
        compiled={"auto": None, "on": True, "off": False}[settings.compile],
        **_sizes(settings),
    )


class Worker:
    """The program: what it has built so far, and why it is not ready."""

    def __init__(self, settings: WorkerSettings, stop: asyncio.Event) -> None:
        random_id = f"w-{uuid.uuid4().hex[:8]}"
        self._id = valid_id("RONDO_INSTANCE_ID", settings.instance_id or random_id)
        check_instance_policy(settings)
        check_pipeline_policy(settings)
        self._settings = settings
        self._stop = stop
        self._registry = CollectorRegistry()
        self._bus = NatsBus(settings.nats_url, name=self._id, tls=settings.nats_tls())
        self._service: WorkerService | None = None
        self._loaded = False
        self._died: Exception | None = None

    async def run(self) -> None:
        """Loads, joins, and serves until stopped or the engine is beyond repair."""
        tracing.start(self._settings.traces, "rondo-worker", self._id)
        health = HealthServer(self._settings, self._not_ready, self._registry)
        port = await health.start()
        logs.info(log, "starting", instance=self._id, engine=self._settings.engine, http_port=port)
        try:
            engine, profile = await asyncio.to_thread(load_engine, self._settings)
            self._loaded = True
            if await unless_stopped(self._stop, self._bus.connect()):
                await self._serve(engine, profile)
        finally:
            await self._bus.close()
            await health.stop()
        if self._died:
            raise SystemExit(1)

    async def _serve(self, engine: Engine, profile: LatencyProfile) -> None:
        scheduler = _scheduler(self._settings, engine, profile)
        record = _record(self._id, engine, scheduler, profile)
        metrics = WorkerMetrics(self._registry)
        add_program_metrics(self._registry, self._settings, self._id, self._bus, engine.spec.model)
        metrics.watch_reuse(lambda: scheduler.board.pool.shared_tokens)
        service = WorkerService(
            self._bus,
            record,
            engine,
            scheduler,
            metrics,
            self._on_death,
            share_prefixes=self._settings.prefix_cache,
            step_timeout_s=self._settings.step_timeout_s,
        )
        self._service = service
        if self._settings.demo:
            await Faults(self._bus, self._id, self._stop.set).start()
        if await unless_stopped(self._stop, service.start()):
            logs.info(log, "ready", instance=self._id, blocks=engine.spec.num_blocks)
            await self._stop.wait()
        await service.stop(0.0 if self._died else self._settings.drain_timeout_s)

    def _on_death(self, error: Exception) -> None:
        self._died = error
        self._stop.set()

    def _not_ready(self) -> str | None:
        if not self._bus.connected:
            loading = "" if self._loaded else "the engine is loading; "
            return f"{loading}no connection to the bus at {self._bus.url}"
        registered = self._service is not None and self._service.registered
        return None if registered else "not registered yet"


async def serve(settings: WorkerSettings, stop: asyncio.Event) -> None:
    """Runs the worker until `stop` is set or its engine is beyond repair."""
    pin_process(settings.cores)
    await Worker(settings, stop).run()


def _scheduler(settings: WorkerSettings, engine: Engine, profile: LatencyProfile) -> AnyScheduler:
    if settings.pipeline_policy:
        return make_pipe_instance(settings, engine.spec, profile)
    return make_instance_scheduler(settings, engine.spec, profile)


def _record(
    instance_id: str, engine: Engine, scheduler: AnyScheduler, profile: LatencyProfile
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
        weight_bytes=spec.weight_bytes,
        kv_bytes=spec.kv_bytes,
        background_pools=BACKGROUND_POOLS if isinstance(scheduler, PipeInstance) else 0.0,
    )


def main() -> int:
    """Entry point."""
    return run_program("rondo-worker", WorkerSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
