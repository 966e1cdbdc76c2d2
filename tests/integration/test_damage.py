"""Messages that arrive damaged, twice or late: whoever gets them goes on, and answers are right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rondo.bus import subjects
from rondo.types import FinishReason
from rondo.wire import messages as m
from rondo.wire.codec import encode
from tests.support.boss import PROMPT, boss_of
from tests.support.collect import eventually
from tests.support.generations import complete, read, servable, start_gateway, text_of
from tests.support.peer import peer_on
from tests.support.services import (
    MACRO,
    Stage,
    expected_tokens,
    metric,
    stage_on,
    steps_of,
)

GARBAGE = (b"", b"\x01", b"garbage", b"\x01\x85\xa4type\xa3Run", bytes(2**20))


@pytest.fixture(params=["memory", "nats"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage_on(request.param, tmp_path) as made:
        yield made


async def test_garbage_on_every_subject_changes_no_answer(stage: Stage) -> None:
    await stage.coordinator()
    worker = await stage.worker(profile=steps_of(3.0, 2.0))
    bus = await stage.harness.bus("g0")
    gateway = await start_gateway(bus)
    await servable(gateway)
    answering = asyncio.create_task(complete(gateway.generation("r", [20, 30], 100)))
    targets = (
        subjects.submit(MACRO),
        subjects.run("w0"),
        subjects.command("w0"),
        subjects.report("w0"),
        subjects.tokens("g0"),
        subjects.STATUS,
    )
    for _ in range(3):
        for subject in targets:
            for data in GARBAGE:
                await stage.harness.inject(subject, data)
    result = await answering
    assert result.error is None
    assert result.text == text_of(expected_tokens([20, 30], 100, ignore_eos=True))
    await eventually(lambda: bus.stats.undecodable == 3 * len(GARBAGE), "each one is counted")
    assert bus.stats.handler_errors == 0
    assert stage.coordinators[0].bus.stats.handler_errors == 0
    assert not worker.deaths


async def test_commands_and_prompts_that_come_again_run_nothing_twice(stage: Stage) -> None:
    boss = await boss_of(stage)
    await stage.worker()
    for _ in range(3):
        await boss.prompt("r", 20)
        await boss.grant("r")
    await boss.end("r")
    await boss.prompt("r", 20)
    await boss.grant("r")
    assert not (await boss.full_report()).members
    assert boss.tokens("r") == expected_tokens(PROMPT, 20, ignore_eos=True)
    assert sum(bool(delta.finish) for delta in boss.deltas("r")) == 1


async def test_reports_and_submits_that_come_again_leave_nothing_behind(stage: Stage) -> None:
    """A whole run's messages to the coordinator, played back to it in another order."""
    coordinator = await stage.coordinator()
    worker = await stage.worker(profile=steps_of(3.0, 2.0))
    gateway = await start_gateway(await stage.harness.bus("g0"))
    await servable(gateway)
    reports = await stage.tap(subjects.report("w0"))
    for index in range(4):
        await complete(gateway.generation(f"r{index}", [20, 30 + index], 20))
    replay = [message for message in reports.items if isinstance(message, m.StepReport)]
    assert len(replay) > 8
    for message in [*replay[::-1], *replay]:
        await stage.harness.inject(subjects.report("w0"), encode(message))
    result = await complete(gateway.generation("after", [20, 40], 20))
    assert result.text == text_of(expected_tokens([20, 40], 20, ignore_eos=True))
    [policy] = coordinator.policies

    def forgotten() -> bool:
        return policy.views["w0"].num_requests == 0 and not policy.placed

    await eventually(forgotten, "the old news is forgotten")
    policy.check_invariants()
    assert metric(worker.registry, "rondo_kv_blocks", state="used") == 0


async def test_an_admission_that_arrives_damaged_is_asked_for_again(stage: Stage) -> None:
    gateway = await start_gateway(await stage.harness.bus("g0"))
    bus = gateway.links.bus
    generation = gateway.generation("r", [20, 30], 20)
    async with stage.harness.garbling(subjects.submit(MACRO)):
        answering = asyncio.create_task(complete(generation))
        await eventually(lambda: bus.stats.undecodable >= 2, "it asks again")
    await stage.coordinator()
    await stage.worker()
    result = await answering
    assert result.text == text_of(expected_tokens([20, 30], 20, ignore_eos=True))


@pytest.mark.parametrize("together", [1, 3, 8])
async def test_usage_ends_with_the_stop_string_however_many_tokens_come_at_once(
    tmp_path: Path, together: int
) -> None:
    """After a loss tokens come in bulk, some of them from behind the stop string."""
    tokens = [50, 51, 52, 53, 54, 55, 56, 57]
    async with peer_on("memory", tmp_path) as peer:
        generation, result = await peer.begin(stops=(text_of(tokens[3:5]),))
        for first in range(0, len(tokens), together):
            await peer.frame(first, *tokens[first : first + together])
        await peer.bus.flush()
        await read(generation, result)
        generation.close()
    assert (result.text, result.finish) == (text_of(tokens[:3]), FinishReason.STOP)
    assert result.num_tokens == 5
