"""A worker whose engine fails or hangs, whose turn is too short, or that rejoins."""

from __future__ import annotations

import asyncio
import threading

import pytest

from rondo.bus import subjects
from rondo.policy.plan import StepPlan
from rondo.types import Finished, FinishReason, Phase
from rondo.wire import messages as m
from rondo_worker.engines.emulated import EmulatedEngine
from tests.support.boss import PROMPT, boss_of
from tests.support.collect import eventually
from tests.support.faults import FailingEngine
from tests.support.services import (
    FAST,
    ORDINARY,
    SPEC,
    Stage,
    expected_tokens,
    metric,
    steps_of,
)

SLOW = steps_of(5.0, 5.0)


class StuckEngine(EmulatedEngine):
    """Its first step takes until it is let go."""

    def __init__(self) -> None:
        super().__init__(SPEC, FAST, ORDINARY)
        self.go_on = threading.Event()

    def step(self, plan: StepPlan) -> dict[str, int]:
        assert self.go_on.wait(10)
        return super().step(plan)


async def test_a_failed_step_ends_only_the_requests_it_names(stage: Stage) -> None:
    boss = await boss_of(stage)
    worker = await stage.worker(engine=FailingEngine(1))
    for name in ("good", "bad"):
        await boss.prompt(name, 20)
    await boss.full_report()
    await boss.grant("good", "bad")
    assert await boss.end("bad") == m.TokenDelta("bad", 0, (), FinishReason.ERROR, "out of luck")
    await boss.end("good")
    assert boss.tokens("good") == expected_tokens(PROMPT, 20, ignore_eos=True)
    progress = await boss.reported(lambda all_: sum(len(p.finished) for p in all_) == 2)
    ended = [one for item in progress for one in item.finished]
    assert ended == [
        Finished("bad", FinishReason.ERROR, 0),
        Finished("good", FinishReason.LENGTH, 20),
    ]
    assert (await boss.full_report()).kv.free_blocks == SPEC.num_blocks
    assert metric(worker.registry, "rondo_failed_requests_total") == 1
    assert not worker.deaths


@pytest.mark.parametrize("error", [None, ValueError])
async def test_beside_a_request_that_breaks_the_step_all_go_on(
    stage: Stage, error: type[Exception] | None
) -> None:
    boss = await boss_of(stage)
    worker = await stage.worker(engine=FailingEngine(100, blames=False, error=error))
    mates = [f"mate{index}" for index in range(11)]
    names = [*mates[:7], "bad", *mates[7:]]
    for name in names:
        await boss.prompt(name, 20)
    await boss.full_report()
    await boss.grant(*names)
    assert "out of luck" in ((await boss.end("bad")).error or "")
    for name in mates:
        assert (await boss.end(name)).error is None
        assert boss.tokens(name) == expected_tokens(PROMPT, 20, ignore_eos=True)
    assert (await boss.full_report()).kv.free_blocks == SPEC.num_blocks
    assert metric(worker.registry, "rondo_failed_requests_total") == 1
    assert not worker.deaths


async def test_a_batch_that_is_too_large_is_computed_in_parts(stage: Stage) -> None:
    boss = await boss_of(stage)
    worker = await stage.worker(engine=FailingEngine(10_000, blames=False, largest=3))
    names = [f"r{index}" for index in range(8)]
    for name in names:
        await boss.prompt(name, 20)
    await boss.full_report()
    await boss.grant(*names)
    for name in names:
        assert (await boss.end(name)).error is None
        assert boss.tokens(name) == expected_tokens(PROMPT, 20, ignore_eos=True)
    assert metric(worker.registry, "rondo_failed_requests_total") == 0
    assert not worker.deaths


async def test_an_engine_that_always_fails_is_given_up_with_its_batch(stage: Stage) -> None:
    boss = await boss_of(stage)
    worker = await stage.worker(engine=FailingEngine(10_000, blames=False, largest=0))
    names = [f"r{index}" for index in range(25)]  # one prefill step
    for turn in range(3):
        for name in names:
            await boss.prompt(f"{name}-{turn}", 20)
        await boss.full_report()
        await boss.grant(*(f"{name}-{turn}" for name in names), turn=turn + 1)
        for name in names:  # also in the step that was the last
            assert (await boss.end(f"{name}-{turn}")).error == "out of luck"
    await eventually(lambda: bool(worker.deaths), "the death is told")


async def test_two_failures_and_a_success_are_forgiven(stage: Stage) -> None:
    boss = await boss_of(stage)
    worker = await stage.worker(engine=FailingEngine(5))
    for turn, name in enumerate(("bad1", "bad2", "good3", "bad4", "bad5", "good6"), 1):
        await boss.prompt(name, 1)
        await boss.grant(name, turn=turn)
        assert ((await boss.end(name)).error is None) == name.startswith("good")
    assert not worker.deaths


async def test_an_engine_that_works_is_not_given_up_for_bad_requests(stage: Stage) -> None:
    boss = await boss_of(stage)
    worker = await stage.worker(engine=FailingEngine(100))
    for turn in range(1, 8):
        await boss.prompt(f"bad{turn}", 4)
        await boss.grant(f"bad{turn}", turn=turn)
        assert (await boss.end(f"bad{turn}")).error
    await boss.prompt("good", 4)
    await boss.grant("good", turn=8)
    assert (await boss.end("good")).error is None
    assert (await boss.full_report()).kv.free_blocks == SPEC.num_blocks
    assert not worker.deaths


async def test_three_failures_in_a_row_are_the_end(stage: Stage) -> None:
    boss = await boss_of(stage)
    worker = await stage.worker(engine=FailingEngine(10_000, largest=0))
    for turn, name in enumerate(("bad1", "bad2", "bad3"), 1):
        await boss.prompt(name)
        await boss.grant(name, turn=turn)
        if turn < 3:
            await boss.end(name)
    await eventually(lambda: bool(worker.deaths), "the death is told")
    assert [str(error) for error in worker.deaths] == ["out of luck"]
    instances = await stage.watch(subjects.INSTANCES_BUCKET)
    assert instances.items[-1].value is not None
    await worker.stop()
    assert (await instances.until(lambda items: items[-1].value is None))[-1].key == "w0"


async def test_a_long_step_is_no_silence(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rondo_worker.service.HEARTBEAT_S", 0.05)
    boss = await boss_of(stage)
    engine = StuckEngine()
    await stage.worker(engine=engine)
    await boss.prompt("r", 2)
    await boss.grant("r")
    await boss.reports.first(m.TurnBegan)
    seen = len(boss.progress())
    progress = await boss.reported(lambda all_: len(all_) >= seen + 5)
    assert {one.phase for one in progress[seen:]} == {Phase.PREFILL}
    assert not any(one.steps or one.members or one.finished for one in progress[seen + 1 :])
    engine.go_on.set()
    await boss.end("r")


async def test_what_a_turn_had_no_time_for_is_left_over(stage: Stage) -> None:
    boss = await boss_of(stage)
    # It must be running still when a loaded machine gets to the turn: 5 s.
    await stage.worker(profile=steps_of(20.0, 10.0))
    await boss.prompt("runs", 500)
    await boss.grant("runs")
    await boss.some("runs", 2)
    late = {"tokens": [20] * 500}  # each fills a prefill step
    for name in ("a", "b", "c"):
        await boss.prompt(name, 4, **late)  # type: ignore[arg-type]
    await boss.full_report()
    names = ("a", "b", "c")
    await boss.command(m.TurnToken(epoch=boss.epoch, turn=2, request_ids=names, budget_s=0.01))
    [_, over] = await boss.reports.first(m.TurnEnded, 2)
    assert (over.num_prefilled, over.leftover) == (1, ("b", "c"))
    await boss.end("a")
    await boss.grant("b", "c", turn=3)
    for name in ("b", "c"):
        await boss.end(name)


async def test_rejoin_clears_all_and_registers_anew(stage: Stage) -> None:
    boss = await boss_of(stage)
    instances = await stage.watch(subjects.INSTANCES_BUCKET)
    await stage.worker(profile=SLOW)
    for name in ("runs", "waits"):
        await boss.prompt(name, 500)
    await boss.grant("runs")
    await boss.some("runs", 3)
    await boss.command(m.Rejoin(epoch=boss.epoch))
    for name in ("runs", "waits"):
        assert (await boss.end(name)).finish is FinishReason.CANCELLED  # go on elsewhere
    records = [update.value for update in await instances.wait(2)]
    incarnations = [r.incarnation for r in records if isinstance(r, m.InstanceRecord)]
    assert len(set(incarnations)) == 2
    progress = await boss.full_report()
    assert progress.members == ()
    assert progress.kv.free_blocks == SPEC.num_blocks
    anew = [r for r in boss.reports.of(m.StepReport) if r.incarnation == incarnations[1]]
    assert anew[0].seq == 0
    await boss.prompt("runs", 3)  # the same id is a new request to the new incarnation
    await boss.grant("runs", turn=2)

    def anew_frames() -> list[m.TokenFrame]:
        return [f for f in boss.frames.of(m.TokenFrame) if f.incarnation == incarnations[1]]

    await boss.frames.until(lambda _: len(anew_frames()) >= 3)
    frames = anew_frames()
    assert [frame.seq for frame in frames] == [0, 1, 2]
    assert [frame.deltas[0].index for frame in frames] == [0, 1, 2]


async def test_a_prompt_that_is_never_granted_is_handed_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rondo_worker.service.HEARTBEAT_S", 0.02)
    monkeypatch.setattr("rondo_worker.service.GRANT_WAIT_S", 0.2)
    boss = await boss_of(stage)
    await stage.worker(profile=steps_of(2.0, 20.0))
    await boss.prompt("granted", 30)
    await boss.grant("granted")
    await boss.prompt("forgotten")
    assert (await boss.end("forgotten")).finish is FinishReason.CANCELLED
    assert (await boss.end("granted")).finish is FinishReason.LENGTH
    assert (await boss.full_report()).members == ()


async def test_a_step_without_end_is_a_death(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rondo_worker.service.HEARTBEAT_S", 0.02)
    boss = await boss_of(stage)
    engine = StuckEngine()
    worker = await stage.worker(engine=engine, step_timeout_s=0.3)
    await boss.prompt("r", 2)
    await boss.grant("r")
    await eventually(lambda: bool(worker.deaths), "it is taken for hung")
    assert "0.3 s" in str(worker.deaths[0])
    stopping = asyncio.create_task(worker.stop())
    assert (await boss.end("r")).finish is FinishReason.CANCELLED
    engine.go_on.set()
    await stopping


async def test_a_worker_waits_for_the_bus_to_register(stage: Stage) -> None:
    bus = await stage.harness.bus("w0")
    await stage.harness.interrupt()
    await eventually(lambda: not bus.connected, "the loss is noticed")
    starting = asyncio.create_task(stage.worker(bus=bus))
    await asyncio.sleep(0)
    await stage.harness.restore()
    worker = await asyncio.wait_for(starting, 10)
    assert worker.service.registered
