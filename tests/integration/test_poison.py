"""A request that breaks the engine ends with an error; those beside it do not notice."""

from __future__ import annotations

import asyncio

from rondo.errors import EngineError
from tests.support.boss import PROMPT
from tests.support.faults import FailingEngine
from tests.support.generations import complete, servable, start_gateway, text_of
from tests.support.services import Stage, expected_tokens, metric


async def test_only_the_culprit_ends_with_an_error(stage: Stage) -> None:
    await stage.coordinator()
    for index in range(2):
        engine = FailingEngine(10_000, blames=False)
        await stage.worker(f"w{index}", engine=engine)
    gateway = await start_gateway(await stage.harness.bus("g0"))
    await servable(gateway, 2)
    names = [f"good{index}" for index in range(24)]
    names[5:5] = ["bad0"]
    names[15:15] = ["bad1"]
    results = await asyncio.gather(
        *(complete(gateway.generation(name, PROMPT, 60)) for name in names)
    )
    for name, result in zip(names, results, strict=True):
        if name.startswith("bad"):
            assert isinstance(result.error, EngineError)
            assert "out of luck" in str(result.error)
        else:
            assert result.error is None
            assert result.text == text_of(expected_tokens(PROMPT, 60, ignore_eos=True))
    assert metric(gateway.registry, "rondo_resumed_answers_total") == 2, "each culprit, once"
    assert not any(worker.deaths for worker in stage.workers)
