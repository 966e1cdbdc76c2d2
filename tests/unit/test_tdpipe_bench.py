"""The simulated comparison of `rondo-bench tdpipe --sim`: its model of time, figures and page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from rondo.errors import ConfigError
from rondo.policy.tdpipe import PipeSettings
from rondo_bench.marked_page import BEGIN, END
from rondo_bench.tdpipe import cmd
from rondo_bench.tdpipe.bound import best_tokens_per_s
from rondo_bench.tdpipe.compare import Job, compare_all, try_tensor_parallel
from rondo_bench.tdpipe.model import SHAPES, TensorParallel, load_model
from rondo_bench.tdpipe.page import write_page
from rondo_bench.tdpipe.simulated import NAMES, draw_requests, simulate
from rondo_bench.tdpipe.study import in_our_order


@pytest.fixture
def lengths(tmp_path: Path) -> Path:
    path = tmp_path / "lengths.csv"
    rows = [f"{20 + i % 50},{5 + i * 13 % 60},{5 + i * 11 % 60}" for i in range(100)]
    header = "num_prefill_tokens,num_decode_tokens,num_predicted_decode_tokens"
    path.write_text("\n".join([header, *rows, "2000,5,5"]))
    return path


def test_the_table_is_in_seconds_of_the_whole_model() -> None:
    model = load_model(SHAPES["qwen2.5-32b"])
    assert model.step_s(0, 0, 1, 0) == pytest.approx(0.0855, rel=0.01)
    assert model.step_s(256, 256**2, 0, 0) == pytest.approx(0.1559, rel=0.01)
    assert model.step_s(4096, 4096**2, 0, 0) == pytest.approx(2 * 1.2077, rel=0.01)
    assert model.step_s(0, 0, 1, 1000) - model.step_s(0, 0, 1, 0) == pytest.approx(4e-4, rel=0.05)
    assert model.step_s(0, 0, 0, 0) == 0.0
    later = model.step_s(128, 128 * (128 + 2 * 512), 0, 0)
    assert later > model.step_s(128, 128**2, 0, 0)
    split = TensorParallel(model, SHAPES["qwen2.5-32b"], 4)
    assert split.step_s(512, 512**2, 0, 0) > model.step_s(512, 512**2, 0, 0) / 4


def test_requests_are_drawn_alike_and_long_prompts_left_out(lengths: Path) -> None:
    drawn = draw_requests(lengths, 300, 1024, seed=3)
    assert drawn == draw_requests(lengths, 300, 1024, seed=3)
    assert max(each.prompt for each in drawn) < 1024
    exact = draw_requests(lengths, 300, 1024, seed=3, spread=0.0)
    assert [e.output for e in exact] == [e.predicted for e in exact] == [e.output for e in drawn]
    noisy = draw_requests(lengths, 300, 1024, seed=3, spread=0.5)
    assert [e.predicted for e in noisy] != [e.predicted for e in exact]
    ordered = in_our_order(Job(SHAPES["llama-2-13b"], drawn, 4, lambda _: None))
    assert sorted(ordered, key=repr) == sorted(drawn, key=repr)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_job_gives_the_same_figures(lengths: Path, name: str) -> None:
    requests = draw_requests(lengths, 60, 1024, seed=1)
    shape = SHAPES["llama-2-13b"]
    rows = [simulate(name, shape, requests, 4, PipeSettings()) for _ in range(2)]
    assert rows[0] == rows[1]
    assert rows[0].figures.tokens_per_s > 0
    assert 0 <= rows[0].figures.bubble_share < 1
    answers = sum(each.output for each in requests)
    assert rows[0].figures.tokens_per_s * rows[0].duration_s == pytest.approx(answers)


def test_no_scheduler_passes_the_bound_and_even_steps_of_256_rows_do_not(lengths: Path) -> None:
    requests = draw_requests(lengths, 60, 1024, seed=1)
    for shape in SHAPES.values():
        bound = best_tokens_per_s(shape, requests, 4)
        for name in NAMES:
            assert simulate(name, shape, requests, 4, PipeSettings()).figures.tokens_per_s < bound
    model = load_model(SHAPES["qwen2.5-32b"])
    rows = sum(each.prompt + each.output - 1 for each in requests)
    cached = sum((e.output - 1) * (e.prompt + (e.output - 2) / 2) for e in requests)
    whole_s = rows / 256 * model.table_s[256] + cached * model.read_s
    even = 4 * sum(each.output for each in requests) / whole_s
    assert even <= bound < 1.1 * even


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cmd.add_parser(parser.add_subparsers())
    return parser.parse_args(["tdpipe", "--sim", *words])


def test_json_has_the_figures_of_every_scheduler(
    lengths: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = parse("--json", "--lengths", str(lengths), "--sim-requests", "40")
    assert cmd.run(args) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == {"tdpipe", "tdpipe-fused", "pp-separate", "pp-hybrid"}
    keys = {"tokens_per_s", "bubble_share", "phase_switches", "recomputed"}
    assert all(set(each) == keys for each in figures.values())


def test_a_lengths_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.csv"):
        cmd.run(parse("--lengths", str(tmp_path / "none.csv")))


def test_tables_go_between_the_marks_of_the_page(lengths: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    requests = draw_requests(lengths, 30, 1024, seed=1)
    job = Job(SHAPES["llama-2-13b"], requests, 2, lambda _: None)
    study = compare_all(job)
    try_tensor_parallel(job, study)
    with pytest.raises(ConfigError, match="lacks"):
        write_page(page, {"llama-2-13b": study})
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_page(page, {"llama-2-13b": study})
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| tdpipe-fused |" in text
