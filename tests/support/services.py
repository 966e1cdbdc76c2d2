"""The three services as live objects on any bus: started, watched, stopped, nothing left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry

from rondo.bus import subjects
from rondo.bus.protocol import Bus, Incoming, KeyUpdate
from rondo.journal import Ending
from rondo.journal_writer import JournalFolder
from rondo.perf.profile import LatencyProfile
from rondo.policy.catalog import PolicySettings
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.policy.macro import QueueSettings
from rondo.policy.padg import PadgScheduler
from rondo.types import Sampling, Slo
from rondo.wire import messages as m
from rondo_coordinator.metrics import CoordinatorMetrics
from rondo_coordinator.service import CoordinatorService
from rondo_coordinator.settings import ScalingSettings
from rondo_worker.engines.base import Engine, EngineSpec
from rondo_worker.engines.emulated import EmulatedEngine
from rondo_worker.metrics import WorkerMetrics
from rondo_worker.pipe_loop import AnyScheduler
from rondo_worker.service import WorkerService
from tests.support.buses import BusHarness, running
from tests.support.collect import Collector
from tests.support.drive import answers, request

M = TypeVar("M", bound=m.Wire)

MODEL = "test-model"
MACRO = subjects.macro_id_of(MODEL)
EOS = 1
VOCAB_SIZE = 100
ORDINARY = range(10, VOCAB_SIZE)
SPEC = EngineSpec(MODEL, "emulated", 1024, VOCAB_SIZE, 16, 256, (EOS,))
SLO = Slo(ttft_s=30.0, tpot_s=1.0)
GREEDY = Sampling(temperature=0.0)


def steps_of(prefill_ms: float, decode_ms: float) -> LatencyProfile:
    """A profile whose steps all take the same time."""
    return LatencyProfile(
        name="test",
        source="made up for tests",
        prefill_floor_ms=(prefill_ms, 0.0),
        prefill_line_ms=(0.0, 0.0),
        prefill_attn_ms=(0.0, 0.0, 0.0),
        decode_ms=(decode_ms, 0.0, 0.0),
    )


FAST = steps_of(2.0, 2.0)


def new_engine(profile: LatencyProfile = FAST, spec: EngineSpec = SPEC) -> EmulatedEngine:
    """An engine without a model."""
    return EmulatedEngine(spec, profile, ORDINARY)


def expected_tokens(prompt: Sequence[int], max_tokens: int, *, ignore_eos: bool) -> list[int]:
    """What the emulated engine answers, whoever asks; an end token included."""
    engine = new_engine(steps_of(0.0, 0.0))
    return answers(engine, [request("r", prompt, max_tokens, ignore_eos=ignore_eos)])["r"]


def submit(request_id: str, *, prompt_tokens: int = 20, max_tokens: int = 8) -> m.Submit:
    """What a gateway asks of a coordinator; every answer is expected to be as long as it may be."""
    return m.Submit(
        request_id=request_id,
        gateway_id="g0",
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        predicted_tokens=max_tokens,
        slo=SLO,
        age_s=0.0,
    )


def metric(registry: CollectorRegistry, name: str, **labels: str) -> float:
    """A sample's value; 0 where there is none yet."""
    return registry.get_sample_value(name, labels) or 0.0


class Tap(Collector[m.Message]):
    """What goes over a subject."""

    def of(self, kind: type[M]) -> list[M]:
        """The messages of one kind so far, in order."""
        return [item for item in self.items if isinstance(item, kind)]

    async def first(self, kind: type[M], count: int = 1) -> list[M]:
        """The messages of one kind, once there are so many."""
        await self.until(lambda _: len(self.of(kind)) >= count)
        return self.of(kind)

    def on_message(self, incoming: Incoming) -> None:
        """Takes a message."""
        self(incoming.message)


@dataclass
class Worker:
    """A running worker."""

    instance_id: str
    service: WorkerService
    registry: CollectorRegistry
    deaths: list[Exception]
    stopped: bool = False

    async def stop(self, drain_timeout_s: float = 0.0) -> None:
        """As its program does."""
        self.stopped = True
        await self.service.stop(drain_timeout_s)


@dataclass
class Coordinator:
    """A running coordinator; `policies` are the policy objects it made, one an epoch of its own."""

    coordinator_id: str
    service: CoordinatorService
    bus: Bus
    registry: CollectorRegistry
    policies: list[PadgScheduler]
    stopped: bool = False

    async def stop(self) -> None:
        """As its program does."""
        self.stopped = True
        await self.service.stop()
        await self.bus.close()

    async def crash(self) -> None:
        """Ends without a word to anybody."""
        self.stopped = True
        await self.bus.close()
        await self.service.stop()


def open_journals(folder: Path, coordinator_id: str) -> JournalFolder:
    """Journals that must not end early."""

    def stopped(ending: Ending, detail: str) -> None:
        raise AssertionError(f"a journal ended: {ending.value}: {detail}")

    return JournalFolder(folder, "padg", PolicySettings(), coordinator_id, stopped)


class Stage:
    """Starts services on one bus server and stops whatever the test left running."""

    def __init__(self, harness: BusHarness) -> None:
        self.harness = harness
        self.workers: list[Worker] = []
        self.coordinators: list[Coordinator] = []

    async def tap(self, subject: str) -> Tap:
        """Listens in, on a connection of its own."""
        tap = Tap()
        await (await self.harness.bus("tap")).subscribe(subject, tap.on_message)
        return tap

    async def watch(self, bucket: str) -> Collector[KeyUpdate]:
        """Everything that happens in a bucket."""
        updates: Collector[KeyUpdate] = Collector()
        await (await (await self.harness.bus("watch")).key_value(bucket)).watch(updates)
        return updates

    async def worker(
        self,
        instance_id: str = "w0",
        *,
        engine: Engine | None = None,
        profile: LatencyProfile = FAST,
        max_running: int = 64,
        bus: Bus | None = None,
        step_timeout_s: float = 0.0,
        scheduler: AnyScheduler | None = None,
    ) -> Worker:
        """A worker that has registered."""
        engine = engine or new_engine(profile)
        spec = engine.spec
        scheduler = scheduler or InstanceScheduler(
            KvLedger(spec.num_blocks, spec.block_size),
            max_running=max_running,
            max_prefill_tokens=512,
            eos_token_ids=spec.eos_token_ids,
            step_cost=profile,
        )
        record = m.InstanceRecord(
            instance_id=instance_id,
            incarnation="",
            model=spec.model,
            engine=spec.engine,
            max_model_len=spec.max_model_len,
            block_size=spec.block_size,
            num_blocks=spec.num_blocks,
            max_running=max_running,
            max_prefill_tokens=512,
            profile=profile,
        )
        registry, deaths = CollectorRegistry(), list[Exception]()
        bus = bus or await self.harness.bus(instance_id)
        metrics = WorkerMetrics(registry)
        service = WorkerService(
            bus, record, engine, scheduler, metrics, deaths.append, step_timeout_s=step_timeout_s
        )
        worker = Worker(instance_id, service, registry, deaths)
        self.workers.append(worker)
        await service.start()
        return worker

    async def coordinator(
        self,
        coordinator_id: str = "c0",
        *,
        bus: Bus | None = None,
        max_wait_s: float = 30.0,
        instance_timeout_s: float = 4.0,
        lease_s: float = 1.0,
        scaling: ScalingSettings | None = None,
        journals: Path | None = None,
    ) -> Coordinator:
        """A coordinator that competes."""
        bus = bus or await self.harness.bus(coordinator_id)
        registry, policies = CollectorRegistry(), list[PadgScheduler]()

        def make_policy() -> PadgScheduler:
            policies.append(PadgScheduler(queue=QueueSettings(max_wait_s=max_wait_s)))
            return policies[-1]

        service = CoordinatorService(
            bus,
            coordinator_id,
            make_policy,
            CoordinatorMetrics(registry),
            instance_timeout_s=instance_timeout_s,
            lease_s=lease_s,
            scaling=scaling,
            journals=open_journals(journals, coordinator_id) if journals else None,
        )
        made = Coordinator(coordinator_id, service, bus, registry, policies)
        self.coordinators.append(made)
        await service.start()
        return made

    async def close(self) -> None:
        """Stops what still runs."""
        for worker in self.workers:
            if not worker.stopped:
                await worker.stop()
        for coordinator in self.coordinators:
            if not coordinator.stopped:
                await coordinator.stop()


@asynccontextmanager
async def stage_on(kind: str, run_dir: Path) -> AsyncIterator[Stage]:
    """A stage on a fresh bus, `memory` or `nats`."""
    async with running(kind, run_dir) as harness:
        stage = Stage(harness)
        try:
            yield stage
        finally:
            await stage.close()
