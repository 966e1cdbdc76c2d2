"""A coordinator that stood still (SIGSTOP) and wakes: what it did not hear was no silence."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from rondo.bus import subjects
from rondo.bus.protocol import KeyUpdate
from rondo.wire import messages as m
from tests.support.cluster import clean_env
from tests.support.collect import Collector
from tests.support.services import Stage

#: Longer than the time-out of silence; then time for a mistake to be made.
STOPPED_S, AWAKE_S = 3.0, 1.5


@asynccontextmanager
async def coordinator_process(stage: Stage, lease_s: float) -> AsyncIterator[Process]:
    """The program `rondo-coordinator`, which owns the worker's macro-instance."""
    macros = await stage.watch(subjects.MACROS_BUCKET)
    settings = {
        "NATS_URL": stage.harness.url,  # type: ignore[attr-defined]
        "RONDO_COORDINATOR_ID": "stopped",
        "RONDO_INSTANCE_TIMEOUT_S": "2",
        "RONDO_LEASE_S": str(lease_s),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "rondo_coordinator",
        env=clean_env(**settings),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await macros.until(lambda items: owner_of(items) == "stopped" and bool(members_of(items)))
        yield process
    finally:
        process.kill()
        await process.wait()


def latest(items: list[KeyUpdate]) -> m.MacroRecord | None:
    records = [update.value for update in items if isinstance(update.value, m.MacroRecord)]
    return records[-1] if records else None


def owner_of(items: list[KeyUpdate]) -> str:
    record = latest(items)
    return record.owner_id if record else ""


def members_of(items: list[KeyUpdate]) -> tuple[str, ...]:
    record = latest(items)
    return record.instance_ids if record else ()


@pytest.mark.parametrize("deposed", [False, True])
async def test_who_wakes_drops_nobody(stage: Stage, deposed: bool) -> None:
    instances: Collector[KeyUpdate] = await stage.watch(subjects.INSTANCES_BUCKET)
    await stage.worker()
    async with coordinator_process(stage, 1.0 if deposed else 30.0) as process:
        if deposed:
            await stage.coordinator("other", lease_s=1.0)
        macros = await stage.watch(subjects.MACROS_BUCKET)
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(STOPPED_S)
        process.send_signal(signal.SIGCONT)
        await asyncio.sleep(AWAKE_S)
        assert [update.key for update in instances.items if update.value is None] == []
        assert owner_of(macros.items) == ("other" if deposed else "stopped")
