"""rondo-bench slack: both sides are offered the same, and the backlog gets what is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rondo_bench.cli import _parser


def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    lengths = tmp_path / "lengths.csv"
    lengths.write_text("num_prefill_tokens,num_decode_tokens\n" + "200,40\n300,20\n90,60\n" * 4)
    options = ["--lengths", str(lengths), "--goodput", "8", "--requests", "60", "--lines", "80"]
    args = _parser().parse_args(
        ["slack", *options, "--shares", "0.5", "--instances", "2", "--seeds", "1", *more]
    )
    assert args.run(args) == 0
    return capsys.readouterr().out


def test_the_backlog_gets_tokens_and_online_hardly_feels_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(run(tmp_path, capsys, "--jobs", "1", "--json"))
    [row] = found["rows"]
    assert row["rate"] == 4.0
    assert row["tokens_per_s"] > row["answer_tokens_per_s"] > 0
    without, beside = row["tpot_ms"]["p50"]
    assert without < beside < 1.05 * without
    assert row["bar_met"] is (row["p99_tpot_longer"] <= 0.05)


def test_the_page_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "slack.md"
    text = run(tmp_path, capsys, "--jobs", "1", "--write", str(page))
    assert page.read_text() == text
    assert "| 4.00/s, 50% |" in text
