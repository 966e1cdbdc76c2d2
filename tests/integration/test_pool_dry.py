"""A KV pool that is too small for all that runs: the youngest wait and come back, none is lost."""

from __future__ import annotations

import dataclasses

from tests.support.boss import PROMPT, boss_of
from tests.support.collect import eventually
from tests.support.services import FAST, SPEC, Stage, expected_tokens, metric, new_engine

#: Three answers want 15 blocks of 16 tokens at their ends.
SMALL = dataclasses.replace(SPEC, num_blocks=8, max_model_len=128)
NAMES = ("first", "second", "third")
ANSWER = 60


async def test_a_dry_pool_preempts_the_youngest_and_loses_nobody(stage: Stage) -> None:
    boss = await boss_of(stage)
    worker = await stage.worker(engine=new_engine(FAST, SMALL))
    prompts = {name: tuple(token + index for token in PROMPT) for index, name in enumerate(NAMES)}
    for name, tokens in prompts.items():
        await boss.prompt(name, ANSWER, tokens=tokens)
    await boss.grant(*NAMES)
    for name, tokens in prompts.items():
        assert (await boss.end(name)).error is None
        assert boss.tokens(name) == expected_tokens(tokens, ANSWER, ignore_eos=True)
    ends = [d.request_id for f in boss.frames.items for d in f.deltas if d.finish]  # type: ignore[union-attr]
    assert ends[0] == "first", "the oldest never waits"
    computed = metric(worker.registry, "rondo_tokens_total", phase="prefill")
    assert computed > len(NAMES) * len(PROMPT), "somebody was prefilled again"
    used = "rondo_kv_blocks"
    await eventually(lambda: metric(worker.registry, used, state="used") == 0, "all are free")
    assert not worker.deaths
