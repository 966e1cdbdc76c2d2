"""The parts of `rondo-bench econoserve --real` that need no engine: rates, questions, the page."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from rondo.errors import ConfigError
from rondo.local.model_folder import find_model
from rondo_bench.econoserve.real import verdict
from rondo_bench.econoserve.real_page import ratios, real_section
from rondo_bench.econoserve.real_record import RealFigures, RealModel, RealRecord
from rondo_bench.econoserve.real_search import SLOPES, Guess, rate_at, slope_at
from rondo_bench.econoserve.real_tiny import TinyTokens, predictions, questions


def figures(rate: float, saturated: float = 10.0, different: int = 0) -> RealFigures:
    return RealFigures(
        requests_per_s_at_equal_latency=rate,
        saturated_requests_per_s=saturated,
        slo_satisfaction=0.5,
        preempted_share=0.25,
        kv_used_share=0.75,
        forward_tokens=20.0,
        normalized_latency_s=0.1,
        completion_s=2.0,
        different_texts=different,
    )


def record(**policies: RealFigures) -> RealRecord:
    named = {name.replace("_", "-"): each for name, each in policies.items()}
    model = RealModel(
        weight_bytes=2 * 10**6, pool_tokens=640, run_s=4.0, level_s=0.1, policies=named
    )
    return RealRecord(
        machine="a machine", date="2026-11-21", num_rounds=5, models={"random": model}
    )


def test_the_rate_at_the_level_is_found() -> None:
    found = rate_at(0.4, lambda rate: 0.1 * (rate / 5.0) ** 2, near=8.0)
    assert found == pytest.approx(10.0, rel=0.02)


def test_a_rate_is_moved_to_the_level_along_the_slope() -> None:
    # Latency rises with the square of the rate.
    guess = Guess(rate=8.0, slope=slope_at(8.0, lambda rate: 0.1 * (rate / 5.0) ** 2))
    assert guess.slope == pytest.approx(2.0)
    assert guess.moved(0.4, 5.0, 0.1) == pytest.approx(10.0)
    assert guess.moved(0.4, 20.0, 1.6) == pytest.approx(10.0)


def test_a_flat_or_falling_curve_has_a_slope_all_the_same() -> None:
    assert slope_at(8.0, lambda _: 0.1) == slope_at(8.0, lambda rate: 1 / rate) == SLOPES[0]
    assert slope_at(8.0, lambda rate: 0.1 if rate < 8.0 else 1e3) == SLOPES[1]


def test_questions_become_the_tokens_of_the_chat_template() -> None:
    folder = find_model(None, weights=False)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = TinyTokens(folder)
    drawn = questions(3, 60)
    assert drawn == questions(3, 60) != questions(4, 60)
    assert {question.split()[0] for question in drawn} == {"Count", "What"}
    for question in drawn:
        whole = f"<|start|><|user|>{question}<|end|><|assistant|>"
        assert list(tokens.prompt(question)) == tokenizer.encode(whole).ids


def test_the_predictor_knows_long_answers_from_short_ones() -> None:
    folder = find_model(None, weights=False)
    tokens = TinyTokens(folder)
    asked = ["What is 12 + 34?", "Count from 1 to 8.", "Count from 1 to 40."]
    short, middle, long = predictions(folder, [tokens.prompt(question) for question in asked])
    assert 5 <= short < middle < long
    assert math.isclose(long, len(" ".join(map(str, range(1, 41)))), rel_tol=0.5)


def test_econoserve_is_held_against_both_kinds_of_first_come() -> None:
    run = record(
        econoserve=figures(15.0, 11.0), block_growth=figures(8.0, 10.0), chunked=figures(10.0, 11.0)
    )
    assert ratios(run.models["random"]) == {
        "block-growth": pytest.approx((1.875, 1.1)),
        "chunked": pytest.approx((1.5, 1.0)),
    }
    assert ratios(record(chunked=figures(15.0)).models["random"]) == {}
    assert [line for line in verdict(run) if "chunked: 1.500 at equal latency" in line]


def test_a_record_comes_back_and_makes_a_section(tmp_path: Path) -> None:
    run = record(econoserve=figures(15.0), block_growth=figures(8.0, different=2))
    path = tmp_path / "new" / "real.json"
    run.save(path)
    assert RealRecord.load(path) == run
    text = "\n".join(real_section(run))
    assert "| econoserve | 15.00 |" in text
    assert "Texts that differ: 2." in text
    assert "1.88× the rate" in text
    printed = run.printed()["econoserve"]
    assert isinstance(printed, dict)
    assert printed["requests_per_s_at_equal_latency"] == 15.0


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "real.json"
    path.write_text("{}")
    with pytest.raises(ConfigError, match=r"real\.json"):
        RealRecord.load(path)
