"""A worker as a process of its own: slow, stopped (SIGSTOP), told to end (SIGTERM), hung."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rondo.bus import subjects
from rondo.bus.protocol import KeyUpdate
from rondo.local.model_folder import find_model
from rondo.types import FinishReason, Phase
from rondo.wire import messages as m
from tests.support.boss import Boss, boss_of
from tests.support.cluster import FAST_PROFILE, clean_env
from tests.support.collect import Collector
from tests.support.services import Stage, submit

MODEL = "rondo-tiny"
MACRO = subjects.macro_id_of(MODEL)


@asynccontextmanager
async def worker_process(
    stage: Stage, folder: Path, *, prefill_ms: float = 4.0, **env: str
) -> AsyncIterator[tuple[Process, Boss, Collector[KeyUpdate]]]:
    """The program `rondo-worker` with an emulated engine, once it has registered."""
    profile = folder / "profile.json"
    profile.write_text(json.dumps({**FAST_PROFILE, "prefill_floor_ms": [prefill_ms, 0.0]}))
    instances = await stage.watch(subjects.INSTANCES_BUCKET)
    boss = await boss_of(stage)
    settings = {
        "NATS_URL": stage.harness.url,  # type: ignore[attr-defined]
        "RONDO_MODEL": str(find_model(None, weights=False)),
        "RONDO_ENGINE": "emulated",
        "RONDO_PROFILE": str(profile),
        "RONDO_INSTANCE_ID": "w0",
        **env,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "rondo_worker",
        env=clean_env(**settings),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await instances.wait(1)
        yield process, boss, instances
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def ended(process: Process) -> int:
    """The exit code of a process that ends by itself."""
    async with asyncio.timeout(10):
        return await process.wait()


def _has_joined(update: KeyUpdate) -> bool:
    return isinstance(update.value, m.MacroRecord) and bool(update.value.instance_ids)


async def test_slow_is_told_from_stopped(stage: Stage, tmp_path: Path) -> None:
    await stage.coordinator(instance_timeout_s=1.6)
    async with worker_process(stage, tmp_path, prefill_ms=3500.0) as (process, boss, instances):
        bus = await stage.harness.bus("gateway")
        message = submit("r", max_tokens=400)
        macros = await stage.watch(subjects.MACROS_BUCKET)
        await macros.until(lambda items: any(_has_joined(update) for update in items))
        assert isinstance(await bus.request(subjects.submit(MACRO), message, 5.0), m.Admitted)
        await boss.prompt("r", 400)
        await boss.some("r", 1)  # a step of 3.5 s was no silence
        assert len(instances.items) == 1
        assert any(p.phase is Phase.PREFILL and not p.steps for p in boss.progress())
        process.send_signal(signal.SIGSTOP)
        await instances.until(lambda items: items[-1].value is None)
        process.send_signal(signal.SIGCONT)
        await instances.until(lambda items: items[-1].value is not None)
        first, *_, last = (u.value for u in instances.items if u.value is not None)
        assert isinstance(first, m.InstanceRecord)
        assert isinstance(last, m.InstanceRecord)
        assert first.incarnation != last.incarnation, "it has come back with nothing on it"


async def test_sigterm_ends_in_time_and_hands_back(stage: Stage, tmp_path: Path) -> None:
    started = worker_process(stage, tmp_path, RONDO_DRAIN_TIMEOUT_S="0.5")
    async with started as (process, boss, instances):
        for name in ("runs", "queued"):
            await boss.prompt(name, 3000)
        await boss.grant("runs")
        await boss.some("runs", 3)
        process.send_signal(signal.SIGTERM)
        assert (await boss.end("queued")).finish is FinishReason.CANCELLED
        end = await boss.end("runs")
        assert end.finish is FinishReason.CANCELLED
        assert end.index == len(boss.tokens("runs"))
        assert await ended(process) == 0
        await instances.until(lambda items: items[-1].value is None)


async def test_a_hung_engine_ends_the_process(stage: Stage, tmp_path: Path) -> None:
    started = worker_process(stage, tmp_path, prefill_ms=60_000.0, RONDO_STEP_TIMEOUT_S="0.2")
    async with started as (process, boss, _):
        await boss.prompt("r", 4)
        await boss.grant("r")
        assert (await boss.end("r")).finish is FinishReason.CANCELLED
        assert await ended(process) == 1
        assert not boss.tokens("r")
