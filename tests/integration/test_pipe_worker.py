"""A live worker whose engine has several steps in flight keeps what every worker promises."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from rondo.errors import EngineError
from rondo.policy.plan import StepPlan
from rondo.policy.tdpipe import SCHEDULER_NAMES, PipeInstance
from rondo.types import FinishReason, Phase
from rondo.wire import messages as m
from rondo_worker.engines.base import EngineGone, EngineRequest
from rondo_worker.engines.pipeline import StepDone
from tests.support.boss import PROMPT, boss_of
from tests.support.collect import eventually
from tests.support.generations import complete, gather_all, servable, start_gateway, text_of
from tests.support.pipes import EmulatedPipe, new_pipe_instance
from tests.support.services import (
    EOS,
    FAST,
    SPEC,
    Stage,
    Worker,
    expected_tokens,
    metric,
    steps_of,
)

SLOW = steps_of(5.0, 5.0)


@dataclass
class Pipe:
    """A worker with a pipeline, its engine and its scheduler."""

    worker: Worker
    engine: EmulatedPipe
    scheduler: PipeInstance


async def start_pipe(
    stage: Stage,
    policy: str = "tdpipe",
    *,
    instance_id: str = "w0",
    engine: EmulatedPipe | None = None,
    step_timeout_s: float = 0.0,
) -> Pipe:
    engine = engine or EmulatedPipe()
    scheduler = new_pipe_instance(policy, engine.spec, FAST)
    worker = await stage.worker(
        instance_id, engine=engine, scheduler=scheduler, step_timeout_s=step_timeout_s
    )
    return Pipe(worker, engine, scheduler)


@pytest.mark.parametrize("policy", SCHEDULER_NAMES)
async def test_lines_and_online_prompts_are_answered_exactly(stage: Stage, policy: str) -> None:
    await stage.coordinator()
    pipe = await start_pipe(stage, policy)
    gateway = await start_gateway(await stage.harness.bus("g0"))
    await servable(gateway)
    prompts = [tuple(range(20, 24 + index)) for index in range(30)]
    results = await gather_all(
        *(
            gateway.generation(f"r{i}", prompt, 40, ignore_eos=False, background=i % 3 > 0)
            for i, prompt in enumerate(prompts)
        )
    )
    for prompt, result in zip(prompts, results, strict=True):
        expected = expected_tokens(prompt, 40, ignore_eos=False)
        assert result.error is None
        assert result.text == text_of(expected)
        ended = expected[-1] == EOS
        assert result.finish is (FinishReason.STOP if ended else FinishReason.LENGTH)
    if policy.startswith("tdpipe"):  # the others may have put all prompts into one batch
        assert pipe.engine.most_in_flight >= 2
    [policy_] = stage.coordinators[0].policies
    await eventually(lambda: not policy_.placed, "the policy knows that all is over")
    policy_.check_invariants()
    assert metric(pipe.worker.registry, "rondo_background_tokens_total") > 0
    pipe.scheduler.check_invariants()
    assert pipe.scheduler.ledger.num_free == SPEC.num_blocks


async def test_turns_and_steps_are_reported_as_of_any_instance(stage: Stage) -> None:
    boss = await boss_of(stage)
    await start_pipe(stage, engine=EmulatedPipe(SLOW))
    names = [f"r{i}" for i in range(6)]
    for name in names:
        await boss.prompt(name, 12)
    assert [member.granted for member in (await boss.full_report()).members or ()] == [False] * 6
    await boss.grant(*names, turn=3)
    for name in names:
        assert (await boss.end(name)).index == 11
        assert boss.tokens(name) == expected_tokens(PROMPT, 12, ignore_eos=True)
    progress = await boss.reported(
        lambda all_: sum(len(one.finished) for one in all_) == 6 and all_[-1].phase is Phase.IDLE
    )
    [began] = await boss.reports.first(m.TurnBegan)
    [ended] = await boss.reports.first(m.TurnEnded)
    assert (began.turn, ended.turn, ended.num_prefilled, ended.leftover) == (3, 3, 6, ())
    steps = [step for one in progress for step in one.steps]
    assert sum(step.prompt_tokens for step in steps) == 6 * len(PROMPT)
    assert sum(step.num_decodes for step in steps) == 6 * 11
    assert progress[-1].decode_steps == 11, "a round gives each of both batches a token"
    assert sorted(started.request_id for one in progress for started in one.started) == names
    assert sorted(name for one in progress for name in one.prefilled) == names
    assert progress[-1].turn == 3


@pytest.mark.parametrize("by", ["gateway", "coordinator"])
async def test_cancelling_in_the_pipe_leaves_no_blocks(stage: Stage, by: str) -> None:
    boss = await boss_of(stage)
    await start_pipe(stage, engine=EmulatedPipe(SLOW))
    for name in ("gone", "stays"):
        await boss.prompt(name, 60 if name == "stays" else 500)
    await boss.grant("gone", "stays")
    await boss.some("gone", 3)
    if by == "gateway":
        await boss.ask(m.Cancel(request_id="gone"))
    else:
        await boss.command(m.CancelRun(epoch=1, request_id="gone"))
    await boss.end("stays")
    assert boss.tokens("stays") == expected_tokens(PROMPT, 60, ignore_eos=True)
    progress = await boss.full_report()
    assert progress.members == ()
    assert progress.kv.free_blocks == progress.kv.total_blocks
    assert (progress.num_running, progress.num_waiting, progress.phase) == (0, 0, Phase.IDLE)


@pytest.mark.parametrize("policy", SCHEDULER_NAMES)
async def test_failing_requests_end_alone_although_the_pipe_is_full(
    stage: Stage, policy: str
) -> None:
    boss = await boss_of(stage)
    pipe = await start_pipe(stage, policy)
    names = [f"good{index}" for index in range(10)]
    names[4:4] = ["bad", "late"]
    for name in names:
        await boss.prompt(name, 60, tokens=[*PROMPT, ord(name[-1]) % 50])
    await boss.grant(*names)
    for name in names:
        end = await boss.end(name)
        if name in ("bad", "late"):
            assert (end.finish, end.error) == (FinishReason.ERROR, "out of luck")
        else:
            tokens = expected_tokens([*PROMPT, ord(name[-1]) % 50], 60, ignore_eos=True)
            assert boss.tokens(name) == tokens
    assert (await boss.full_report()).kv.used_blocks == 0
    assert not pipe.worker.deaths
    pipe.scheduler.check_invariants()


async def test_a_leaving_pipeline_hands_back_what_has_not_begun(stage: Stage) -> None:
    boss = await boss_of(stage)
    pipe = await start_pipe(stage, engine=EmulatedPipe(SLOW))
    await boss.prompt("runs", 100)
    await boss.grant("runs")
    await boss.some("runs", 2)
    await boss.prompt("ungranted", 4)
    await boss.full_report()
    stopping = asyncio.create_task(pipe.worker.stop(10.0))
    assert (await boss.end("ungranted")).finish is FinishReason.CANCELLED
    assert not stopping.done()
    assert (await boss.end("runs")).finish is FinishReason.LENGTH
    assert boss.tokens("runs") == expected_tokens(PROMPT, 100, ignore_eos=True)
    await stopping


class MortalPipe(EmulatedPipe):
    """Its stages die, or hang, when they are told to."""

    def __init__(self) -> None:
        super().__init__(SLOW)
        self.dead = self.hung = False

    def add(self, request: EngineRequest) -> None:
        self._check()
        super().add(request)

    def submit(self, plan: StepPlan) -> int:
        self._check()
        return super().submit(plan)

    def take(self, timeout_s: float | None = None) -> StepDone | None:
        return None if self.hung else super().take(timeout_s)

    def _check(self) -> None:
        if self.dead:
            raise EngineGone("stage 1 of the pipeline died")


async def test_answers_go_on_elsewhere_when_a_stage_dies(stage: Stage) -> None:
    await stage.coordinator()
    engine = MortalPipe()
    dying = await start_pipe(stage, engine=engine)
    gateway = await start_gateway(await stage.harness.bus("g0"))
    await servable(gateway)
    answers = [
        asyncio.create_task(complete(gateway.generation(f"r{i}", PROMPT, 150, background=i > 3)))
        for i in range(8)
    ]
    await eventually(lambda: dying.scheduler.num_running == 8, "all decode")
    await start_pipe(stage, instance_id="w1")
    await servable(gateway, 2)
    engine.dead = True
    await eventually(lambda: bool(dying.worker.deaths), "the worker knows")
    await dying.worker.stop(0.0)
    async with asyncio.timeout(60):
        for answer in answers:
            result = await answer
            assert result.error is None
            assert result.text == text_of(expected_tokens(PROMPT, 150, ignore_eos=True))
    assert isinstance(dying.worker.deaths[0], EngineGone)


async def test_the_prompt_that_finds_the_stages_dead_is_not_to_blame(stage: Stage) -> None:
    await stage.coordinator()
    engine = MortalPipe()
    dying = await start_pipe(stage, engine=engine)
    gateway = await start_gateway(await stage.harness.bus("g0"))
    await servable(gateway)
    engine.dead = True
    answer = asyncio.create_task(complete(gateway.generation("r", PROMPT, 20)))
    await eventually(lambda: bool(dying.worker.deaths), "the worker knows")
    await start_pipe(stage, instance_id="w1")
    await dying.worker.stop(0.0)
    result = await answer
    assert result.error is None
    assert result.text == text_of(expected_tokens(PROMPT, 20, ignore_eos=True))


async def test_a_step_that_does_not_come_back_ends_the_worker(stage: Stage) -> None:
    boss = await boss_of(stage)
    engine = MortalPipe()
    pipe = await start_pipe(stage, engine=engine, step_timeout_s=0.5)
    await boss.prompt("r", 300)
    await boss.grant("r")
    await boss.some("r", 2)
    engine.hung = True
    await eventually(lambda: bool(pipe.worker.deaths), "it is noticed")
    assert isinstance(pipe.worker.deaths[0], EngineError)
    assert "0.5 s" in str(pipe.worker.deaths[0])
