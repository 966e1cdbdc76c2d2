"""The comparison of engines, without engines: shapes, pools, the table, whom it finds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from rondo_bench.engines import cmd, compare
from rondo_bench.engines.cases import CASES, Case
from rondo_bench.engines.compare import Options, available_engines, pool_tokens, vllm_python
from rondo_bench.engines.shape import Shape

TINY = Shape(layers=1, hidden=64, heads=2, inner=32, vocabulary=50, positions=64)


def test_the_model_has_134_million_parameters() -> None:
    assert round(Shape().parameters / 1e6) == 134


def test_a_written_model_has_the_weights_of_its_shape(tmp_path: Path) -> None:
    TINY.write(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert {name: weight.shape for name, weight in weights.items()} == TINY.tensors()
    assert sum(weight.size for weight in weights.values()) == TINY.parameters
    assert json.loads((tmp_path / "config.json").read_text())["hidden_size"] == 64


def test_a_case_counts_prompt_tokens_or_answers() -> None:
    assert CASES["prefill_2048"].tokens == 2048
    assert CASES["decode_b8"].tokens == 8 * CASES["decode_b8"].steps


def test_a_pool_holds_the_largest_case_in_whole_blocks() -> None:
    case = Case(kind="decode", context=128, batch=3, steps=5)
    blocks_of_128 = 3 * 2  # each request needs a second block
    assert pool_tokens([case]) % 128 == 0
    assert pool_tokens([case, Case(kind="prefill", context=8)]) >= blocks_of_128 * 128


def test_the_table_has_speeds_and_ratios() -> None:
    table = {"torch": {"x": 300.0}, "transformers": {"x": 200.0}, "vllm": {"x": 400.0}}
    case = Case(kind="prefill", context=4)
    options = Options(tuple(table), "float32", 5, 2, shape=TINY, cases={"x": case})
    text = cmd.as_markdown(table, {"torch": "9.9"}, options)
    for row in ("| torch | 300 |", "| torch / transformers | 1.50 |", "| torch / vllm | 0.75 |"):
        assert row in text
    assert "vllm_phase /" not in text
    assert "torch 9.9" in text


def test_vllm_is_found_beside_this_venv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compare, "find_spec", lambda name: None if name == "vllm" else object())
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert vllm_python() is None
    assert available_engines() == ("torch", "transformers")
    python = tmp_path / ".venv-vllm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert vllm_python() == str(python)
    assert available_engines() == ("torch", "transformers", "vllm", "vllm_phase")


def test_this_python_is_taken_where_it_has_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "find_spec", lambda name: object())
    assert vllm_python() == sys.executable
