"""Background answers on the whole way: complete, exact, counted, and behind all others."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from rondo_gateway.background import when_placed
from tests.support.collect import eventually
from tests.support.generations import (
    Result,
    complete,
    gather_all,
    servable,
    start_gateway,
    text_of,
)
from tests.support.services import SPEC, Stage, expected_tokens, metric, new_engine, steps_of

PROFILE = steps_of(3.0, 2.0)
PROMPT = (20, 30, 40)


async def test_background_answers_wait_for_others_and_are_exact(stage: Stage) -> None:
    await stage.coordinator()
    worker = await stage.worker(profile=PROFILE)
    gateway = await start_gateway(await stage.harness.bus("g0"))
    await servable(gateway)
    lines = [
        asyncio.create_task(complete(gateway.generation(f"b{i}", PROMPT, 400, background=True)))
        for i in range(4)
    ]

    def background() -> float:
        return metric(worker.registry, "rondo_background_tokens_total")

    await eventually(lambda: background() > 20, "the background answers are under way")
    # `steps_of` has steps that cost the same whatever rides along: all may.
    online = await gather_all(*(gateway.generation(f"r{i}", PROMPT, 40) for i in range(4)))
    assert not any(line.done() for line in lines)
    for result in online:
        assert result.text == text_of(expected_tokens(PROMPT, 40, ignore_eos=True))
    async with asyncio.timeout(30):
        for line in lines:
            result = await line
            assert result.error is None
            assert result.text == text_of(expected_tokens(PROMPT, 400, ignore_eos=True))
    # Each answer's first token comes with its prompt.
    assert background() == 4 * (len(PROMPT) + 399)
    [policy] = stage.coordinators[0].policies
    await eventually(lambda: not policy.placed, "the policy knows that all is over")
    policy.check_invariants()


async def test_who_sends_a_background_request_learns_when_an_instance_has_it(stage: Stage) -> None:
    await stage.coordinator()
    gateway = await start_gateway(await stage.harness.bus("g0"))
    told = list[str]()

    async def line(name: str) -> Result:
        when_placed(lambda: told.append(name))
        return await complete(gateway.generation(name, PROMPT, 100, background=True))

    # All of the pool is one request's: the other one waits for it.
    spec = replace(SPEC, num_blocks=8)
    await stage.worker(engine=new_engine(PROFILE, spec))
    await servable(gateway)
    first = asyncio.create_task(line("first"))
    await eventually(lambda: told == ["first"], "the first one is on the instance")
    second = asyncio.create_task(line("second"))
    [policy] = stage.coordinators[0].policies
    await eventually(lambda: list(policy.background.pending) == ["second"], "the other one waits")
    assert told == ["first"]
    assert (await first).num_tokens == 100
    assert (await second).num_tokens == 100
    assert told == ["first", "second"]
