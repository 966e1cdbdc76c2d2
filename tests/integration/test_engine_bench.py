"""The comparison of engines on a tiny model, with real child processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rondo_bench.engines.cases import Case
from rondo_bench.engines.child import Start, load, measure
from rondo_bench.engines.compare import Child, ChildError, Options, compare, pool_tokens
from rondo_bench.engines.shape import Shape

TINY = Shape(layers=2, hidden=64, heads=2, inner=96, vocabulary=90, positions=128)
CASES = {
    "prefill": Case(kind="prefill", context=20),
    "decode": Case(kind="decode", context=10, batch=3, steps=4),
}
OPTIONS = Options(("torch", "transformers"), "float32", 1, 1, shape=TINY, cases=CASES)


def test_engines_take_turns_and_every_case_gets_a_speed() -> None:
    told: list[str] = []
    table, versions = compare(OPTIONS, told.append)
    assert list(table) == ["torch", "transformers"]
    for speeds in table.values():
        assert list(speeds) == ["prefill", "decode"]
        assert min(speeds.values()) > 0.0
    assert {"torch", "transformers"} <= versions.keys()
    assert told == ["loading torch", "loading transformers", "warmed up", "round 1 of 1"]


def test_a_side_can_run_the_same_case_again(tmp_path: Path) -> None:
    TINY.write(tmp_path)
    start = Start(
        engine="torch",
        folder=str(tmp_path),
        dtype="float32",
        threads=1,
        vocabulary=TINY.vocabulary,
        pool_tokens=pool_tokens(CASES.values()),
    )
    side = load(start)
    for seed in range(3):
        assert measure(side, CASES["decode"], TINY.vocabulary, seed) > 0.0


def test_a_child_that_cannot_load_ends_with_its_log(tmp_path: Path) -> None:
    child = Child("torch", OPTIONS, tmp_path, tmp_path / "log")
    with pytest.raises(ChildError, match=r"torch has ended(.|\n)*config\.json"):
        child.load()
    child.close()
