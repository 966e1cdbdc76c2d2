"""Padded decode steps, as CUDA graphs record them: the same logits, and nobody's memory touched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rondo_worker.engines.torch import TorchEngine
from rondo_worker.engines.torch.batch import StepInputs
from rondo_worker.engines.torch.graphs import BUCKETS, DecodeGraphs
from rondo_worker.engines.torch.kv_pool import KvPool
from tests.support.drive import Driver, request
from tests.support.models import save_model
from tests.support.reference import prompt

NUM_BLOCKS, BLOCK_SIZE = 96, 4
SIZES = (1, 2, 4, 8)


def load(folder: Path) -> TorchEngine:
    return TorchEngine.load(
        folder, device="cpu", dtype="float32", block_size=BLOCK_SIZE, num_blocks=NUM_BLOCKS
    )


def padded(engine: TorchEngine, name: str, folder: Path) -> tuple[TorchEngine, list[int]]:
    """An engine whose decode steps are padded to SIZES; the rows of each of its passes."""
    from rondo_worker.engines.hf_config import read_config

    config = read_config(folder)
    pool = KvPool(config, NUM_BLOCKS, BLOCK_SIZE, torch.device("cpu"), torch.float32, spare=True)
    model, rows = engine._model, []
    assert model is not None

    def forward(inputs: StepInputs) -> torch.Tensor:
        rows.append(len(inputs.tokens))
        return model.forward(inputs, pool)

    engine._pool = pool
    engine._graphs = DecodeGraphs(
        forward,
        config.windows,
        width=-(-engine.spec.max_model_len // BLOCK_SIZE),
        spare_block=NUM_BLOCKS,
        spare_slot=NUM_BLOCKS * BLOCK_SIZE,
        device=torch.device("cpu"),
        buckets=SIZES,
    )
    return engine, rows


def logits_of(engine: TorchEngine) -> list[dict[str, torch.Tensor]]:
    """Of every step of nine requests that end one after another."""
    found: list[dict[str, torch.Tensor]] = []
    driver = Driver(engine, max_running=9)
    driver.on_step = lambda plan, tokens: found.append(
        {name: row.clone() for name, row in engine.last_logits.items()}
    )
    for i in range(9):
        driver.submit(request(f"r{i}", prompt(3 + 5 * i, i), 4 + 3 * i))
    driver.run()
    return found


@pytest.mark.parametrize("name", ["llama", "mistral-window", "qwen3"])
def test_padded_steps_give_the_same_logits(name: str, tmp_path: Path) -> None:
    save_model(tmp_path, name)
    expected = logits_of(load(tmp_path))
    engine, rows = padded(load(tmp_path), name, tmp_path)
    actual = logits_of(engine)
    assert set(rows) == {1, 2, 4, 8}, "each size was used, and nine decodes were too many"
    assert [list(step) for step in actual] == [list(step) for step in expected]
    for step, wanted in zip(actual, expected, strict=True):
        for request_id, row in step.items():
            torch.testing.assert_close(row, wanted[request_id], atol=1e-5, rtol=0)


def test_padding_writes_to_the_spare_block_only(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    engine, rows = padded(load(tmp_path), "llama", tmp_path)
    driver = Driver(engine)
    driver.submit(*(request(f"r{i}", prompt(6, i), 6) for i in range(3)))
    used: set[int] = set()
    driver.on_step = lambda plan, tokens: used.update(b for item in plan.items for b in item.blocks)
    pool = engine._pool
    assert pool is not None
    for layer in pool.blocks:
        layer.fill_(torch.nan)
        layer[NUM_BLOCKS] = 0.0
    driver.run()
    assert rows[0] == 4, "three sequences and a row that pads them"
    assert all(torch.isfinite(layer[NUM_BLOCKS]).all() for layer in pool.blocks)
    assert any(layer[NUM_BLOCKS].any() for layer in pool.blocks)
    unused = [block for block in range(NUM_BLOCKS) if block not in used]
    assert len(unused) == NUM_BLOCKS - 9
    assert all(torch.isnan(layer[unused]).all() for layer in pool.blocks)


def test_sizes_waste_little() -> None:
    assert BUCKETS[0] == 1
    for smaller, larger in zip(BUCKETS, BUCKETS[1:], strict=False):
        assert smaller < larger <= 2 * smaller
