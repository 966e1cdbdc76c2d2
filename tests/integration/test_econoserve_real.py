"""The real half of `rondo-bench econoserve`, with models that take no time: figures and texts."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from rondo.errors import ConfigError
from rondo_bench.econoserve.real_bench import run_model
from rondo_bench.econoserve.real_chart import draw_pools
from rondo_bench.econoserve.real_run import num_different
from rondo_bench.econoserve.real_setup import RANDOM, TINY, RealOptions, random_tasks
from rondo_bench.engines.shape import Shape

SHAPE = Shape(layers=2, hidden=64, heads=2, inner=96, vocabulary=400, positions=256)
NAMES = ("econoserve", "exact", "block-growth", "chunked", "max-length", "shortest-first")


@pytest.fixture
def options(tmp_path: Path) -> RealOptions:
    dice = random.Random(3)
    rows = []
    for _ in range(100):
        output = dice.randint(16, 640)
        predicted = round(output * dice.uniform(0.7, 1.3))
        rows.append(f"{dice.randint(16, 640)},{output},{predicted}")
    lengths = tmp_path / "lengths.csv"
    names = "num_prefill_tokens,num_decode_tokens,num_predicted_decode_tokens"
    lengths.write_text("\n".join([names, *rows]))
    return RealOptions(
        lengths=lengths,
        num_rounds=1,
        num_tasks=40,
        pool_tokens={RANDOM: 400, TINY: 800},
        run_s={RANDOM: 0.02, TINY: 0.02},
        saturated_s={RANDOM: 0.01, TINY: 0.01},
        calibration_s=0.3,
        num_threads=1,
        shape=SHAPE,
    )


@pytest.mark.parametrize("model", [RANDOM, TINY])
def test_every_policy_gives_the_same_texts_and_its_figures(
    model: str, options: RealOptions, tmp_path: Path
) -> None:
    said: list[str] = []
    names = NAMES if model == RANDOM else ("econoserve", "block-growth")
    bench = run_model(model, options, names, tmp_path / "model", said.append)
    result = bench.result()
    assert list(result.policies) == list(names)
    for figures in result.policies.values():
        assert figures.different_texts == 0
        assert figures.requests_per_s_at_equal_latency > 0
        assert figures.saturated_requests_per_s > 0
        assert 0 < figures.kv_used_share <= 1
        assert figures.forward_tokens > 1
    lengths = {len(task.text) for task in bench.bed.tasks}
    assert len(lengths) > 5, "answers differ in length"
    chart = tmp_path / "pools.svg"
    draw_pools(bench.last, chart)
    assert chart.read_text().count("% of the pool") == len(names)
    assert sum("requests/s" in line for line in said) == len(names)


def test_a_text_that_differs_is_counted(options: RealOptions, tmp_path: Path) -> None:
    bench = run_model(RANDOM, options, ("block-growth",), tmp_path / "model", lambda _: None)
    run = bench.last["block-growth"]
    assert num_different(bench.bed, run) == 0
    life = next(life for life in run.lives.values() if life.end_s is not None)
    life.text[0] += 1
    assert num_different(bench.bed, run) == 1


def test_lengths_are_those_of_the_file_made_smaller(options: RealOptions) -> None:
    tasks = random_tasks(options, 50)
    assert max(len(task.prompt) for task in tasks) <= 640 // options.scale
    assert max(task.output for task in tasks) <= 640 // options.scale
    assert all(task.output < task.limit for task in tasks)
    assert any(task.predicted < task.output for task in tasks)
    with pytest.raises(ConfigError, match="lengths"):
        random_tasks(dataclasses.replace(options, lengths=Path("nowhere.csv")), 5)
