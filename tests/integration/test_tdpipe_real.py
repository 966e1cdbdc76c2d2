"""The real half of `rondo-bench tdpipe`, with a model that takes no time: texts, figures, chart."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rondo.errors import ConfigError
from rondo.types import Phase
from rondo_bench.engines.shape import Shape
from rondo_bench.tdpipe.real_bench import run_real, verdict
from rondo_bench.tdpipe.real_run import RealRun
from rondo_bench.tdpipe.real_setup import RealOptions, make_requests
from rondo_bench.tdpipe.simulated import HYBRID, NAMES
from rondo_worker.engines.pipeline import StageSpan

SHAPE = Shape(layers=4, hidden=64, heads=2, inner=96, vocabulary=400, positions=256)


@pytest.fixture
def options(tmp_path: Path) -> RealOptions:
    dice = random.Random(3)
    rows = [f"{dice.randint(8, 400)},{dice.randint(8, 160)}" for _ in range(100)]
    lengths = tmp_path / "lengths.csv"
    lengths.write_text("\n".join(["num_prefill_tokens,num_decode_tokens", *rows]))
    return RealOptions(
        lengths=lengths,
        num_requests=24,
        num_rounds=1,
        cores="",
        pool_tokens=512,
        prefill_tokens=64,
        budgets=(24, 48),
        shape=SHAPE,
    )


def test_every_scheduler_gives_the_texts_of_one_process(
    options: RealOptions, tmp_path: Path
) -> None:
    said: list[str] = []
    chart = tmp_path / "stages.svg"
    bench = run_real(options, NAMES, chart, said.append)
    assert bench.num_different == 0
    assert bench.budget in options.budgets
    figures = bench.figures()
    assert list(figures) == list(NAMES)
    assert {"tdpipe", "pp-separate", HYBRID} <= figures.keys()
    wanted = sum(each.request.max_tokens for each in bench.requests)
    for name, runs in bench.runs.items():
        (run,) = runs
        assert sum(map(len, run.texts.values())) == wanted
        assert [len(line) for line in run.spans] == [run.num_steps] * 2
        assert 0.0 <= figures[name].bubble_share < 1.0
    phases = {span.phase for span in bench.runs["tdpipe"][0].spans[0]}
    assert phases == {Phase.PREFILL, Phase.DECODE}
    assert bench.runs["tdpipe"][0].num_switches >= 2
    assert chart.read_text().count("tdpipe:") == 1
    assert any("bar: 0" in line for line in verdict(bench))


def test_bubbles_are_what_is_idle_between_ramp_up_and_drain() -> None:
    def spans(*pairs: tuple[float, float]) -> list[StageSpan]:
        return [StageSpan(0, Phase.DECODE, begin, end, 0.0) for begin, end in pairs]

    run = RealRun(prompts_done_s=11.0)
    run.spans = [spans((0, 4), (6, 10), (10, 12), (20, 21)), spans((4, 8), (8, 14), (14, 20))]
    # 2 s idle of the first stage's 12 s, none of the other's 10 s.
    assert run.bubble_share == pytest.approx(2 / 22)


def test_the_predictor_slips_to_neighbouring_classes_only(options: RealOptions) -> None:
    exact = make_requests(RealOptions(lengths=options.lengths, accuracy=1.0, scale=1), 500)
    values = sorted({each.predicted_tokens for each in exact})
    assert len(values) == 5
    drawn = make_requests(RealOptions(lengths=options.lengths, accuracy=0.6, scale=1), 500)
    slips = [
        abs(values.index(a.predicted_tokens) - values.index(b.predicted_tokens))
        for a, b in zip(exact, drawn, strict=True)
    ]
    assert max(slips) == 1
    assert 0.25 < sum(slips) / len(slips) < 0.45
    assert [a.request for a in exact] == [b.request for b in drawn]


def test_lengths_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lengths"):
        make_requests(RealOptions(lengths=tmp_path / "nowhere.csv"), 5)
