"""One live worker on a real bus: commands and prompts in, frames and reports out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from rondo.bus import subjects
from rondo.policy.plan import StepPlan
from rondo.types import Finished, FinishReason, Phase, Progress
from rondo.wire import messages as m
from rondo_worker.engines.emulated import EmulatedEngine
from tests.support.boss import PROMPT, Boss, boss_of
from tests.support.services import (
    ORDINARY,
    SPEC,
    VOCAB_SIZE,
    Stage,
    expected_tokens,
    metric,
    stage_on,
    steps_of,
)

SLOW = steps_of(5.0, 5.0)


class RecordingEngine(EmulatedEngine):
    """Remembers every step it began."""

    def __init__(self) -> None:
        super().__init__(SPEC, SLOW, ORDINARY)
        self.plans: list[tuple[str, ...]] = []

    def step(self, plan: StepPlan) -> dict[str, int]:
        self.plans.append(tuple(item.request_id for item in plan.items))
        return super().step(plan)

    def steps_with(self, request_id: str) -> int:
        return sum(request_id in plan for plan in self.plans)


def idle(progress: list[Progress]) -> bool:
    return bool(progress) and progress[-1].phase is Phase.IDLE


def total_steps(boss: Boss) -> int:
    return sum(len(progress.steps) for progress in boss.progress())


def ended(progress: list[Progress]) -> list[Finished]:
    return [one for item in progress for one in item.finished]


def has_ended(request_id: str) -> Callable[[list[Progress]], bool]:
    return lambda progress: any(one.request_id == request_id for one in ended(progress))


async def test_one_frame_for_each_step_and_gateway(stage: Stage) -> None:
    boss = await boss_of(stage)
    of_gateway = [await stage.tap(subjects.tokens(f"g{i}")) for i in range(2)]
    await stage.worker()
    names = [f"r{i}" for i in range(6)]
    for index, name in enumerate(names):
        await boss.prompt(name, 12, gateway_id=f"g{index % 2}")
    await boss.grant(*names)
    for name in names:
        end = await boss.end(name)
        assert (end.index, end.finish) == (11, FinishReason.LENGTH)
        assert boss.tokens(name) == expected_tokens(PROMPT, 12, ignore_eos=True)
    await boss.reported(lambda all_: len(ended(all_)) == 6)
    assert total_steps(boss) == 12  # one prefill, eleven decodes
    started = [one for progress in boss.progress() for one in progress.started]
    assert sorted((one.request_id, one.base_step) for one in started) == [(n, 0) for n in names]
    for tap in of_gateway:
        frames = await tap.first(m.TokenFrame, 12)
        assert [len(frame.deltas) for frame in frames] == [3] * 12
        assert [frame.seq for frame in frames] == list(range(12))


async def test_cancel_stops_a_request_within_one_step(tmp_path: Path) -> None:
    async with stage_on("memory", tmp_path) as stage:  # its order of delivery is exact
        boss = await boss_of(stage)
        engine = RecordingEngine()
        worker = await stage.worker(engine=engine, profile=SLOW)
        counts: list[int] = []
        bus = await stage.harness.bus("observer")
        await bus.subscribe(
            subjects.run("w0"),
            lambda i: (
                counts.append(engine.steps_with("gone"))
                if isinstance(i.message, m.Cancel)
                else None
            ),
        )
        await boss.prompt("gone", 500)
        await boss.prompt("stays", 40)
        await boss.grant("gone", "stays")
        await boss.some("gone", 5)
        await boss.ask(m.Cancel(request_id="gone"))
        await boss.end("stays")
        assert len(counts) == 1
        assert engine.steps_with("gone") <= counts[0] + 1
        assert len(boss.deltas("gone")) <= counts[0]
        assert boss.tokens("stays") == expected_tokens(PROMPT, 40, ignore_eos=True)
        assert metric(worker.registry, "rondo_cancelled_requests_total") == 1


@pytest.mark.parametrize("by", ["gateway", "coordinator"])
async def test_a_cancelled_request_leaves_no_blocks(stage: Stage, by: str) -> None:
    boss = await boss_of(stage)
    await stage.worker(profile=SLOW)
    await boss.prompt("gone", 500)
    await boss.grant("gone")
    await boss.some("gone", 3)
    if by == "gateway":
        await boss.ask(m.Cancel(request_id="gone"))
    else:
        await boss.command(m.CancelRun(epoch=1, request_id="gone"))
    progress = await boss.full_report()
    assert progress.members == ()
    assert progress.kv.free_blocks == progress.kv.total_blocks == SPEC.num_blocks
    assert progress.num_running == progress.num_waiting == 0


async def test_resync_of_live_finished_and_unknown_requests(stage: Stage) -> None:
    boss = await boss_of(stage)
    await stage.worker(profile=SLOW)
    again = await stage.tap(subjects.tokens("g9"))

    async def resync(request_id: str, index: int) -> m.TokenDelta:
        seen = len(again.of(m.TokenFrame))
        await boss.ask(m.Resync(request_id=request_id, gateway_id="g9", from_index=index))
        frames = await again.first(m.TokenFrame, seen + 1)
        [delta] = frames[seen].deltas
        return delta

    expected = tuple(expected_tokens(PROMPT, 60, ignore_eos=True))
    await boss.prompt("r", 60)
    await boss.grant("r")
    await boss.some("r", 5)
    delta = await resync("r", 2)
    assert delta.index == 2
    assert delta.finish is None
    assert len(delta.tokens) >= 3
    assert delta.tokens == expected[2:][: len(delta.tokens)]
    await boss.end("r")
    assert await resync("r", 57) == m.TokenDelta("r", 57, expected[57:], FinishReason.LENGTH)
    assert await resync("r", 60) == m.TokenDelta("r", 60, (), FinishReason.LENGTH)
    unknown = await resync("nobody", 3)
    assert unknown == m.TokenDelta("nobody", 3, (), FinishReason.CANCELLED)


async def test_commands_of_an_older_epoch_are_ignored_and_counted(stage: Stage) -> None:
    boss = await boss_of(stage)
    worker = await stage.worker()
    await boss.prompt("r", 4)
    await boss.full_report()
    stale = boss.epoch - 1
    await boss.command(m.TurnToken(epoch=stale, turn=1, request_ids=("r",), budget_s=1.0))
    await boss.command(m.Rejoin(epoch=stale))
    members = (await boss.full_report()).members or ()
    assert [(member.request_id, member.granted) for member in members] == [("r", False)]
    assert metric(worker.registry, "rondo_stale_commands_total") == 2
    assert len({report.incarnation for report in boss.reports.of(m.StepReport)}) == 1
    await boss.grant("r")
    await boss.end("r")


async def test_a_full_report_names_every_request(stage: Stage) -> None:
    boss = await boss_of(stage)
    await stage.worker(profile=SLOW)
    await boss.prompt("runs", 500)
    await boss.grant("runs")
    await boss.some("runs", 3)
    await boss.prompt("waits", 7)
    members = {one.request_id: one for one in (await boss.full_report()).members or ()}
    assert list(members) == ["runs", "waits"]
    assert members["runs"].tokens_out >= 3
    assert (members["runs"].decode_age_s or 0) > 0
    assert members["runs"].granted
    assert (members["waits"].prompt_tokens, members["waits"].max_tokens) == (len(PROMPT), 7)
    assert not members["waits"].granted
    assert members["waits"].decode_age_s is None


@pytest.mark.parametrize("first", ["prompt", "token"])
async def test_prompt_and_token_come_in_any_order(stage: Stage, first: str) -> None:
    boss = await boss_of(stage)
    await stage.worker()
    if first == "prompt":
        await boss.prompt("r")
        assert [r.granted for r in (await boss.full_report()).members or ()] == [False]
        await boss.grant("r")
    else:
        await boss.grant("r")
        assert (await boss.full_report()).members == ()
        await boss.prompt("r")
    await boss.end("r")
    assert boss.tokens("r") == expected_tokens(PROMPT, 8, ignore_eos=True)


async def test_a_granted_prompt_that_never_comes_is_given_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rondo.policy.turns.PROMPT_WAIT_S", 0.1)
    monkeypatch.setattr("rondo_worker.loop.IDLE_TICK_S", 0.05)
    boss = await boss_of(stage)
    await stage.worker()
    await boss.grant("missing", "there")
    await boss.prompt("there")
    await boss.end("there")
    progress = await boss.reported(has_ended("missing"))
    assert Finished("missing", FinishReason.CANCELLED, 0) in ended(progress)


BAD_PROMPTS = {
    "no whole tokens": ({"data": b"\1\0\0"}, "no whole number"),
    "too long": ({"tokens": [20] * SPEC.max_model_len}, "no room"),
    "outside the vocabulary": ({"tokens": [20, VOCAB_SIZE]}, "outside"),
    "negative": ({"tokens": [20, -1]}, "outside"),
    "empty": ({"tokens": []}, "empty"),
    "nothing to answer": ({"max_tokens": 0}, "no room"),
}


@pytest.mark.parametrize("case", BAD_PROMPTS)
async def test_a_bad_prompt_harms_nobody_else(stage: Stage, case: str) -> None:
    options, problem = BAD_PROMPTS[case]
    boss = await boss_of(stage)
    await stage.worker()
    await boss.prompt("good", 20)
    await boss.prompt("bad", **options)  # type: ignore[arg-type]
    await boss.grant("good", "bad")
    end = await boss.end("bad")
    assert (end.index, end.tokens, end.finish) == (0, (), FinishReason.ERROR)
    assert problem in (end.error or "")
    await boss.end("good")
    assert boss.tokens("good") == expected_tokens(PROMPT, 20, ignore_eos=True)
    progress = await boss.full_report()
    assert progress.members == ()
    assert progress.kv.free_blocks == SPEC.num_blocks


async def test_turns_are_reported(stage: Stage) -> None:
    boss = await boss_of(stage)
    await stage.worker()
    for turn, names in ((3, ("a", "b")), (4, ("c",))):
        for name in names:
            await boss.prompt(name, 30)
        await boss.full_report()
        await boss.grant(*names, turn=turn)
        [*_, began] = await boss.reports.first(m.TurnBegan, turn - 2)
        [*_, over] = await boss.reports.first(m.TurnEnded, turn - 2)
        assert (began.turn, over.turn) == (turn, turn)
        assert (over.num_prefilled, over.prefill_tokens) == (len(names), len(names) * len(PROMPT))
        assert over.leftover == ()
        assert 0 <= began.waited_s < 1
        # A step that is late may start where the last one should have ended, and seem shorter.
        assert 0 < over.duration_s < 1
        await boss.command(m.TurnRevoke(epoch=boss.epoch, turn=turn))
    numbers = [getattr(report, "seq", None) for report in boss.reports.items]
    assert numbers == list(range(len(numbers)))
    assert boss.progress()[-1].turn == 4


async def test_an_idle_worker_says_so_once_a_second(stage: Stage) -> None:
    boss = await boss_of(stage)
    await stage.worker()
    await boss.prompt("r", 2)
    await boss.grant("r")
    await boss.end("r")
    await boss.reported(idle)
    seen = len(boss.reports.items)
    await asyncio.sleep(2.3)
    assert 2 <= len(boss.reports.items) - seen <= 3
    assert all(progress.members == () for progress in boss.progress()[-2:])


async def test_a_prompt_that_begins_as_another_did_is_not_computed_again(stage: Stage) -> None:
    boss = await boss_of(stage)
    await stage.worker()
    first = tuple(range(20, 20 + 50))
    await boss.prompt("first", 4, tokens=first)
    await boss.grant("first")
    await boss.end("first")
    await boss.reported(lambda all_: len(ended(all_)) == 1)
    second = (*first[:40], *range(30, 60))
    await boss.prompt("second", 4, tokens=second)
    await boss.grant("second")
    await boss.end("second")
    seen = await boss.reported(lambda all_: len(ended(all_)) == 2)
    [found] = [found for progress in seen for found in progress.found]
    whole = 40 // SPEC.block_size * SPEC.block_size
    assert (found.request_id, found.num_tokens) == ("second", whole)
    computed = [step.prompt_tokens for progress in seen for step in progress.steps]
    assert sum(computed) == len(first) + len(second) - whole
    assert boss.tokens("second") == expected_tokens(second, 4, ignore_eos=True)
