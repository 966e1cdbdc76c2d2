"""What programs tell for the console alone: why requests wait, and faults that workers obey."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rondo.bus import subjects
from rondo.bus.memory import MemoryBroker, MemoryBus
from rondo.bus.protocol import Bus
from rondo.errors import NoResponder
from rondo.wire import messages as m
from rondo_worker.faults import Faults
from tests.support.collect import eventually
from tests.support.generations import complete, servable, start_gateway
from tests.support.services import Stage, Tap, stage_on, steps_of

SLOW = steps_of(300.0, 10.0)
PROMPT = tuple(range(20, 90)) * 6  # most of what a step takes


@pytest.fixture
async def bus() -> AsyncIterator[Bus]:
    made = MemoryBus(MemoryBroker(), name="test")
    await made.connect()
    yield made
    await made.close()


async def crowd(stage: Stage, tap: Tap, name: str) -> list[m.Event]:
    """More requests than one instance takes at once; what was told of those that wait."""
    gateway = await start_gateway(await stage.harness.bus(name), name)
    await servable(gateway)
    asked = [gateway.generation(f"{name}-{n}", PROMPT, 2, ignore_eos=True) for n in range(12)]
    await asyncio.gather(*(complete(one) for one in asked))
    return tap.of(m.Event)


async def test_why_requests_wait_is_told_to_who_watches(tmp_path: Path) -> None:
    async with stage_on("memory", tmp_path) as stage:
        await stage.coordinator()
        await stage.worker("w0", profile=SLOW)
        tap = await stage.tap(subjects.event("pending"))
        assert await crowd(stage, tap, "g0") == []
        watcher = await stage.harness.bus("watcher")
        await watcher.publish(subjects.WATCH, m.Watching(gateway_id="g9"))
        told = await crowd(stage, tap, "g1")
        assert told
        for event in told:
            assert str(event.fields["request"]).startswith("g1-")
            reasons = event.fields["reasons"]
            assert isinstance(reasons, list)
            assert reasons[0].startswith(f"{event.fields['request']} stays pending: w0: ")


async def order(bus: Bus, fault: m.FaultKind, duration_s: float = 0.0) -> m.Message:
    injected = m.InjectFault(fault=fault, duration_s=duration_s)
    return await bus.request(subjects.fault("w0"), injected, 2.0)


async def test_a_worker_obeys_and_says_so_first(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *args: killed.append(args))
    drained = asyncio.Event()
    await Faults(bus, "w0", drained.set).start()
    for fault in m.FaultKind:
        taken = m.FaultTaken(instance_id="w0", fault=fault)
        assert await order(bus, fault, duration_s=0.05) == taken
    await eventually(drained.is_set, "it drains")
    assert killed == [(os.getpid(), signal.SIGKILL)]


async def test_without_the_setting_nobody_listens(bus: Bus) -> None:
    with pytest.raises(NoResponder):
        await order(bus, m.FaultKind.KILL)
