"""Instance policies in live workers with a small KV pool: texts, overload, what is reported."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from rondo.policy.econoserve import INSTANCE_POLICY_NAMES
from rondo.policy.instance import InstanceScheduler
from rondo.wire import messages as m
from rondo_worker.engines.base import Engine
from rondo_worker.engines.torch import TorchEngine
from rondo_worker.instance_setup import check_instance_policy, make_instance_scheduler
from rondo_worker.settings import WorkerSettings
from tests.support.boss import boss_of
from tests.support.collect import eventually
from tests.support.drive import answers
from tests.support.engines import batch, model_folder
from tests.support.models import VOCAB_SIZE
from tests.support.services import (
    FAST,
    SPEC,
    Stage,
    expected_tokens,
    metric,
    new_engine,
)

__all__ = ["model_folder"]  # a fixture

#: Tokens of the torch engine's answers; together they want four times the pool.
ANSWER = 24
SMALL_POOL = 36


def load(folder: Path, num_blocks: int) -> TorchEngine:
    """The model with so much memory for KV."""
    return TorchEngine.load(
        folder, device="cpu", dtype="float32", block_size=4, num_blocks=num_blocks, num_threads=1
    )


def scheduler_of(engine: Engine, policy: str) -> InstanceScheduler:
    """As a worker's program makes it."""
    settings = WorkerSettings(model="here", instance_policy=policy, max_prefill_tokens=512)
    check_instance_policy(settings)
    scheduler = make_instance_scheduler(settings, engine.spec, FAST)
    assert scheduler.policy.name == policy
    return scheduler


@pytest.fixture(scope="module")
def texts(model_folder: Path) -> dict[str, list[int]]:
    """What the model answers when it has all the memory it wants."""
    return answers(load(model_folder, 400), batch(12, ANSWER))


@pytest.mark.parametrize("policy", INSTANCE_POLICY_NAMES)
async def test_texts_are_the_same_under_every_policy(
    policy: str, stage: Stage, model_folder: Path, texts: dict[str, list[int]]
) -> None:
    boss = await boss_of(stage)
    engine = load(model_folder, SMALL_POOL)
    assert engine.spec.vocab_size == VOCAB_SIZE
    worker = await stage.worker(engine=engine, scheduler=scheduler_of(engine, policy))
    wanted = batch(12, ANSWER)
    dice = random.Random(5)
    for item in wanted:
        predicted = dice.randint(2, ANSWER)
        await boss.prompt(item.request_id, ANSWER, tokens=item.prompt, predicted=predicted)
    await boss.grant(*texts)
    for name, text in texts.items():
        assert (await boss.end(name)).error is None
        assert boss.tokens(name) == text
    highest = max(progress.kv.used_blocks for progress in boss.progress())
    assert highest > SMALL_POOL // 2, "the pool was never tight"
    await eventually(
        lambda: metric(worker.registry, "rondo_kv_blocks", state="owned") == 0, "all are free"
    )


async def test_under_overload_nothing_is_lost_and_reports_say_what_is_promised(
    stage: Stage,
) -> None:
    boss = await boss_of(stage)
    spec = dataclasses.replace(SPEC, num_blocks=40, max_model_len=256)
    engine = new_engine(FAST, spec)
    worker = await stage.worker(engine=engine, scheduler=scheduler_of(engine, "econoserve"))
    dice = random.Random(6)
    asked = {
        f"r{index}": (
            tuple(dice.choices(range(20, 90), k=dice.randint(1, 60))),
            dice.randint(2, 60),
        )
        for index in range(80)
    }
    for name, (prompt, length) in asked.items():
        predicted = max(1, round(length * dice.uniform(0.2, 1.5)))
        await boss.prompt(name, length, tokens=prompt, predicted=predicted)
    await boss.grant(*asked)
    gone = [f"r{index}" for index in range(0, 80, 10)]
    for name in gone:
        await boss.ask(m.Cancel(request_id=name))
    for name, (prompt, length) in asked.items():
        if name not in gone:
            assert (await boss.end(name)).error is None
            assert boss.tokens(name) == expected_tokens(prompt, length, ignore_eos=True)
    spaces = [progress.space for progress in boss.progress() if progress.space]
    assert max(space.owned_blocks for space in spaces) <= spec.num_blocks
    assert any(space.lent_blocks > 0 for space in spaces)
    for state in ("used", "owned", "lent", "borrowed"):
        await eventually(
            lambda s=state: metric(worker.registry, "rondo_kv_blocks", state=s) == 0,  # type: ignore[misc]
            f"nothing is {state}",
        )
    assert metric(worker.registry, "rondo_requests", state="paused") == 0
    steps = metric(worker.registry, "rondo_forward_tokens_count")
    tokens = metric(worker.registry, "rondo_forward_tokens_sum")
    assert tokens > steps > 0
