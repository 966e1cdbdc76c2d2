"""A worker that is told to stop: what runs finishes, what does not is handed back at once."""

from __future__ import annotations

import asyncio
import time

from rondo.bus import subjects
from rondo.types import FinishReason
from rondo.wire import messages as m
from tests.support.boss import PROMPT, boss_of
from tests.support.collect import eventually
from tests.support.generations import servable, start_gateway, text_of
from tests.support.services import Stage, expected_tokens, metric, steps_of

SLOW = steps_of(5.0, 5.0)


async def test_stop_lets_requests_finish_and_removes_the_record(stage: Stage) -> None:
    boss = await boss_of(stage)
    instances = await stage.watch(subjects.INSTANCES_BUCKET)
    worker = await stage.worker(profile=SLOW)
    await boss.prompt("r", 60)
    await boss.grant("r")
    await boss.some("r", 3)
    stopping = asyncio.create_task(worker.stop(10.0))
    await instances.wait(2)
    assert isinstance(draining := instances.items[1].value, m.InstanceRecord)
    assert draining.draining
    assert not any(delta.finish for delta in boss.deltas("r"))
    await stopping
    await boss.end("r")
    assert boss.tokens("r") == expected_tokens(PROMPT, 60, ignore_eos=True)
    assert (await instances.wait(3))[2].value is None
    await boss.reported(lambda all_: any(one.finished for one in all_))


async def test_what_does_not_finish_in_time_is_handed_back(stage: Stage) -> None:
    boss = await boss_of(stage)
    instances = await stage.watch(subjects.INSTANCES_BUCKET)
    worker = await stage.worker(profile=SLOW)
    await boss.prompt("r", 900)
    await boss.grant("r")
    await boss.some("r", 3)
    async with asyncio.timeout(5):
        await worker.stop(0.2)
    assert (await instances.wait(3))[-1].value is None
    end = await boss.end("r")
    assert (end.finish, end.error) == (FinishReason.CANCELLED, None)
    assert len(boss.tokens("r")) == end.index, "nothing is missing, and nothing comes after it"


async def test_what_has_not_begun_is_handed_back_at_once(stage: Stage) -> None:
    boss = await boss_of(stage)
    worker = await stage.worker(profile=steps_of(300.0, 5.0))
    await boss.prompt("runs", 150)
    await boss.grant("runs")
    await boss.some("runs", 2)
    for name in ("ungranted", "granted", "begun"):
        await boss.prompt(name, 4, tokens=[20] * 900)  # two prefill steps each
    await boss.full_report()
    await boss.grant("begun", "granted", "no prompt yet", turn=2)
    began = asyncio.get_running_loop().time()
    stopping = asyncio.create_task(worker.stop(20.0))
    for name in ("ungranted", "granted"):
        assert (await boss.end(name)).finish is FinishReason.CANCELLED
    assert asyncio.get_running_loop().time() - began < 2
    await boss.prompt("no prompt yet", 4)
    await boss.prompt("late", 4)
    for name in ("no prompt yet", "late"):
        assert (await boss.end(name)).finish is FinishReason.CANCELLED
    assert not stopping.done()
    for name in ("begun", "runs"):
        assert (await boss.end(name)).finish is FinishReason.LENGTH
    await stopping


async def test_a_leaving_worker_hands_back_what_its_turn_had_no_time_for(stage: Stage) -> None:
    boss = await boss_of(stage)
    worker = await stage.worker(profile=steps_of(200.0, 5.0))
    await boss.prompt("runs", 200)
    await boss.grant("runs")
    await boss.some("runs", 2)
    await boss.prompt("long", 4, tokens=[20] * 1000)
    await boss.full_report()
    await boss.command(m.TurnToken(epoch=boss.epoch, turn=2, request_ids=("long",), budget_s=0.01))
    await boss.reports.first(m.TurnBegan, 2)
    stopping = asyncio.create_task(worker.stop(20.0))
    assert (await boss.end("long")).finish is FinishReason.CANCELLED
    assert (await boss.end("runs")).finish is FinishReason.LENGTH
    await stopping


async def test_clients_see_nothing_of_a_worker_that_leaves(stage: Stage) -> None:
    await stage.coordinator()
    for index in range(2):
        await stage.worker(f"w{index}", profile=steps_of(10.0, 5.0))
    gateway = await start_gateway(await stage.harness.bus("g0"), stall_s=3.0)
    await servable(gateway, 2)
    pauses_s: list[float] = []

    async def client(number: int) -> None:
        length = 60 + 20 * number
        generation = gateway.generation(f"r{number}", PROMPT, length)
        try:
            await generation.start()
            text, heard_s = "", time.monotonic()
            async for piece in generation.pieces():
                text += piece.text
                pauses_s.append(time.monotonic() - heard_s)
                heard_s = time.monotonic()
        finally:
            generation.close()
        assert text == text_of(expected_tokens(PROMPT, length, ignore_eos=True))

    clients = [asyncio.create_task(client(number)) for number in range(16)]
    await eventually(lambda: len(pauses_s) > 50, "answers are under way")
    busy = max(stage.workers, key=lambda w: metric(w.registry, "rondo_requests", state="running"))
    await busy.stop(0.2)  # not long enough for all
    await asyncio.gather(*clients)
    assert metric(gateway.registry, "rondo_resumed_answers_total") > 0
    assert max(pauses_s) < 2.0, "nobody waited for a time-out"
