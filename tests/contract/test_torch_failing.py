"""A step of the torch engine that fails half-way: its parts give the tokens that it would have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rondo_worker.engines.torch import TorchEngine
from rondo_worker.retry import run_step, works
from tests.support.drive import Driver
from tests.support.engines import BLOCK_SIZES, NUM_BLOCKS, batch

CULPRIT = "r3"


@pytest.fixture
def engine(model_folder: Path) -> TorchEngine:
    return TorchEngine.load(
        model_folder,
        device="cpu",
        dtype="float32",
        block_size=BLOCK_SIZES["torch"],
        num_blocks=NUM_BLOCKS,
    )


def answers(engine: TorchEngine) -> dict[str, list[int]]:
    """What becomes of a batch, as the step loop would run it."""
    driver = Driver(engine, max_prefill_tokens=32)
    driver.submit(*batch(8, temperature=0.8))
    scheduler, done = driver.scheduler, dict[str, list[int]]()
    for step in range(2000):
        plan = scheduler.plan(float(step))
        if plan is None:
            break
        result = run_step(engine, plan)
        for request_id in result.problems:
            scheduler.cancel(request_id)
            engine.remove(request_id)
        assert result.complete
        for token in scheduler.commit(plan, result.tokens).tokens:
            done.setdefault(token.request_id, []).append(token.token)
            if token.finish:
                engine.remove(token.request_id)
    scheduler.check_invariants()
    assert not scheduler.board.jobs
    assert works(engine, scheduler.ledger)
    assert scheduler.ledger.num_free == NUM_BLOCKS
    return done


@pytest.mark.parametrize("after_tokens", [0, 5])
def test_the_others_go_on_as_if_nothing_had_been(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch, after_tokens: int
) -> None:
    expected = answers(engine)
    step, forward = engine.step, engine._model.forward  # type: ignore[union-attr]
    doomed = False

    def watched_step(plan: Any) -> dict[str, int]:
        nonlocal doomed
        row = engine._sequences.find(CULPRIT)
        doomed = any(item.request_id == CULPRIT for item in plan.items) and (
            row is not None and row.num_output >= after_tokens
        )
        return step(plan)

    def failing_forward(*args: Any) -> Any:
        logits = forward(*args)  # the KV of all is written
        if doomed:
            raise RuntimeError("out of memory")
        return logits

    monkeypatch.setattr(engine, "step", watched_step)
    monkeypatch.setattr(engine._model, "forward", failing_forward)
    left = answers(engine)
    assert left.pop(CULPRIT, []) == expected.pop(CULPRIT)[:after_tokens]
    assert left == expected
