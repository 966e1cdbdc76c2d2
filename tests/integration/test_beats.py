"""Instances without news beat; nothing that reports would show is missed, nobody is missed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rondo.bus import subjects
from rondo.bus.protocol import KeyUpdate
from rondo.wire import messages as m
from tests.support.boss import Boss, boss_of
from tests.support.collect import Collector, eventually
from tests.support.faults import lossy
from tests.support.services import MACRO, Stage, Tap, stage_on, submit

BEAT_S = 0.05


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rondo_worker.service.HEARTBEAT_S", BEAT_S)
    monkeypatch.setattr("rondo_coordinator.service.CHECK_S", 0.05)
    monkeypatch.setattr("rondo_coordinator.orders.REPEAT_S", 0.1)


async def beating(stage: Stage, timeout_s: float = 4.0) -> tuple[Boss, Tap, Tap]:
    """A coordinator and the worker w0, which beats: its boss, its beats, what it is told."""
    boss = await boss_of(stage)
    beats = await stage.tap(subjects.beat("w0"))
    commands = await stage.tap(subjects.command("w0"))
    await stage.coordinator(instance_timeout_s=timeout_s)
    await stage.worker()
    await beats.first(m.Beat, 2)
    return boss, beats, commands


async def admit(stage: Stage, request_id: str) -> None:
    bus = await stage.harness.bus("g0")
    answer = await bus.request(subjects.submit(MACRO), submit(request_id), 5.0)
    assert isinstance(answer, m.Admitted)


def dropped(instances: Collector[KeyUpdate]) -> bool:
    return any(update.value is None for update in instances.items)


async def test_while_nothing_happens_there_are_only_beats(stage: Stage) -> None:
    boss, beats, commands = await beating(stage)
    assert len(commands.of(m.MayBeat)) == 1
    num_reports, num_beats = len(boss.reports.items), len(beats.items)
    await beats.first(m.Beat, num_beats + 5)
    assert len(boss.reports.items) == num_reports
    await admit(stage, "r")
    await boss.prompt("r")
    await boss.end("r")
    await boss.reported(lambda all_: any(one.finished for one in all_))
    seq = boss.reports.of(m.StepReport)[-1].seq
    await beats.until(lambda items: isinstance(items[-1], m.Beat) and items[-1].seq == seq + 1)
    [policy] = stage.coordinators[0].policies
    await eventually(lambda: not policy.expects_news("w0"), "it is known to be idle")
    policy.check_invariants()


async def test_a_lost_last_report_is_seen_by_the_next_beat(tmp_path: Path) -> None:
    async with stage_on("memory", tmp_path) as stage:
        broker = lossy(stage.harness)
        boss, _, commands = await beating(stage)
        [policy] = stage.coordinators[0].policies
        await admit(stage, "r")
        broker.lose = lambda _, message: (
            isinstance(message, m.StepReport) and bool(message.progress.finished)
        )
        asked = len(commands.of(m.SendFullReport))
        await boss.prompt("r")
        await boss.end("r")
        await commands.first(m.SendFullReport, asked + 1)
        await eventually(lambda: not policy.expects_news("w0"), "it is known to be idle")
        assert len(broker.lost) == 1


async def test_a_lost_report_is_seen_though_no_request_is_there(tmp_path: Path) -> None:
    async with stage_on("memory", tmp_path) as stage:
        broker = lossy(stage.harness)
        boss, _, commands = await beating(stage)
        asked = len(commands.of(m.SendFullReport))
        broker.lose = lambda _, message: isinstance(message, m.StepReport) and not broker.lost
        await boss.command(m.SendFullReport(epoch=1))
        await commands.first(m.SendFullReport, asked + 2)
        assert len(broker.lost) == 1


async def test_who_should_have_a_request_and_beats_is_asked(tmp_path: Path) -> None:
    async with stage_on("memory", tmp_path) as stage:
        broker = lossy(stage.harness)
        _, _, commands = await beating(stage)
        asked = len(commands.of(m.SendFullReport))
        broker.lose = lambda _, message: isinstance(message, m.TurnToken)
        await admit(stage, "r")  # its prompt is lost, too
        await commands.first(m.SendFullReport, asked + 2)
        assert broker.lost


async def test_lost_beats_make_nobody_dead(tmp_path: Path) -> None:
    async with stage_on("memory", tmp_path) as stage:
        broker = lossy(stage.harness)
        instances = await stage.watch(subjects.INSTANCES_BUCKET)
        boss, _, commands = await beating(stage, timeout_s=1.0)
        broker.lose = lambda _, message: isinstance(message, m.Beat)
        asked = len(commands.of(m.SendFullReport))
        await commands.first(m.SendFullReport, asked + 3)
        assert len(broker.lost) > 20
        assert not dropped(instances)
        assert boss.reports.of(m.StepReport)[-1].progress.members == ()


async def test_who_stops_beating_is_dropped(tmp_path: Path) -> None:
    async with stage_on("memory", tmp_path) as stage:
        broker = lossy(stage.harness)
        instances = await stage.watch(subjects.INSTANCES_BUCKET)
        await beating(stage, timeout_s=0.6)
        broker.lose = lambda subject, _: subject in (subjects.beat("w0"), subjects.report("w0"))
        began_s = asyncio.get_running_loop().time()
        await instances.until(lambda _: dropped(instances))
        assert asyncio.get_running_loop().time() - began_s > 0.5
        broker.lose = lambda *_: False
        await instances.until(lambda items: isinstance(items[-1].value, m.InstanceRecord))


async def test_a_new_owner_asks_and_allows_anew(tmp_path: Path) -> None:
    async with stage_on("memory", tmp_path) as stage:
        _, beats, commands = await beating(stage)
        await stage.coordinators[0].crash()
        await stage.coordinator("c1")
        orders = await commands.first(m.MayBeat, 2)
        assert [order.epoch for order in orders] == [1, 2]
        await beats.until(lambda items: isinstance(items[-1], m.Beat) and items[-1].epoch == 2)
