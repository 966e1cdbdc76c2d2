"""rondo-bench load from its command line to its figures and files."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rondo.errors import ConfigError
from rondo_bench.load import cmd
from rondo_bench.sim.summary import Summary

LENGTHS = "num_prefill_tokens,num_decode_tokens\n8,5\n16,9\n"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [sys.executable, "-m", "rondo_bench.load.sse_server", "--pace-s", "0.002"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1]
        process.terminate()


def load(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rondo_bench.cli", "load", "--base-url", url, "--model", "m"]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)


def test_an_open_loop_writes_figures_lines_and_a_page(url: str, tmp_path: Path) -> None:
    lengths = tmp_path / "lengths.csv"
    lengths.write_text(LENGTHS)
    options = ["--lengths", str(lengths), "--rate", "200", "--requests", "40", "--seed", "3"]
    files = ["--out", str(tmp_path / "run.jsonl"), "--html", str(tmp_path / "run.html")]
    done = load(url, *options, *files, "--ttft-s", "5", "--tpot-s", "1", "--warm-up", "4", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert set(Summary.__annotations__) <= set(summary)
    assert (summary["offered"], summary["completed"], summary["attainment"]) == (40, 40, 1.0)
    assert summary["ttft_s"]["p50"] > 0
    assert summary["tpot_s"]["p50"] >= 0.001
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert sum(line["output_tokens"] for line in lines) == summary["output_tokens"]
    assert {line["output_tokens"] for line in lines} == {5, 9}
    assert "<svg" in (tmp_path / "run.html").read_text()


def test_objectives_that_nobody_meets_are_missed(url: str) -> None:
    options = ["--tokens", "8:4:0.5", "--concurrency", "4", "--requests", "12", "--chat"]
    done = load(url, *options, "--tpot-s", "1e-9", "--ttft-s", "1e-9", "--json")
    summary = json.loads(done.stdout)
    assert (summary["completed"], summary["attainment"]) == (12, 0.0)


def test_a_goodput_search_asks_lower_and_lower_rates(url: str) -> None:
    options = ["--tokens", "8:2", "--rate", "2000", "--requests", "6", "--goodput", "--json"]
    done = load(url, *options, "--ttft-s", "0.0000001", "--target", "0.5", "--fine", "1.2")
    found = json.loads(done.stdout)
    assert found["rate"] == 0.0  # nobody is that fast, at any rate
    rates = [point["rate"] for point in found["curve"]]
    assert rates[-1] == 2000
    assert rates[0] <= 20
    assert all(point["attainment"] == 0.0 for point in found["curve"])


def test_a_server_that_is_not_there_ends_the_run(tmp_path: Path) -> None:
    done = load("http://127.0.0.1:9", "--tokens", "8:2", "--rate", "50", "--max-errors", "2")
    assert done.returncode == 1
    given_up = re.search(r"given up after (\d+) failures", done.stderr)
    assert given_up
    assert int(given_up[1]) >= 3  # those that fail together are all counted


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--tokens", "8"], "--tokens"),
        (["--tokens", "8:2"], "--rate"),
        (["--tokens", "8:2", "--ramp", "0:1,nothing"], "--ramp"),
        (["--tokens", "8:2", "--rate", "1", "--ttft-s", "0"], "--ttft-s"),
        ([], "--lengths"),
        (["--tokens", "8:2", "--goodput", "--concurrency", "2"], "--concurrency"),
    ],
)
def test_a_wrong_option_is_named(options: list[str], named: str) -> None:
    parser = argparse.ArgumentParser()
    cmd.add_parser(parser.add_subparsers())
    args = parser.parse_args(["load", "--base-url", "http://127.0.0.1:9", "--model", "m", *options])
    with pytest.raises(ConfigError, match=named):
        cmd.run(args)
