"""The side-by-side benchmark with emulated engines: sides start, take turns, and go on later."""

from __future__ import annotations

import asyncio
import gzip
import os
from pathlib import Path

import pytest

from rondo_bench.engines.shape import Shape
from rondo_bench.goodput_real.compare import Options, compare
from rondo_bench.goodput_real.page import as_markdown
from rondo_bench.goodput_real.records import Header, Store
from rondo_bench.goodput_real.sides import Setup, parse_side
from rondo_bench.goodput_real.workloads import WORKLOADS

SHAPE = Shape(layers=1, hidden=64, heads=2, inner=64, vocabulary=500, positions=2048)
HEADER = Header(
    engine="emulated",
    dtype="float32",
    compiled=False,
    kv_mib=64,
    scale=0.1,
    settle_s=0.2,
    run_s=0.6,
    ratio=1.3,
)


def options(tmp_path: Path, budget_s: float) -> Options:
    workload = WORKLOADS[0]
    rows = "num_prefill_tokens,num_decode_tokens\n" + "40,60\n" * 50
    (tmp_path / workload.lengths).write_bytes(gzip.compress(rows.encode()))
    work = tmp_path / "work"
    return Options(
        sides=[parse_side(name) for name in ("padg", "padg:0.9", "chunked-jsq")],
        workloads=[workload],
        targets=[0.9],
        num_seeds=1,
        budget_s=budget_s,
        lengths=tmp_path,
        setup=Setup(
            engine="emulated",
            dtype="float32",
            compiled=False,
            kv_mib=64,
            cores=tuple(sorted(os.sched_getaffinity(0))[:2]),
            model=work / "model",
            work=work,
            journal=True,
        ),
        shape=SHAPE,
    )


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a core for each instance")
async def test_sides_take_turns_until_the_time_is_over(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs" / "emulated.jsonl", HEADER)
    told: list[str] = []
    async with asyncio.timeout(100):
        assert not await compare(options(tmp_path, 20.0), store, told.append)
    assert [line for line in told if line.startswith("starting")] == [
        "starting padg",  # padg:0.9 is the same cluster
        "starting chunked-jsq",
    ]
    assert store.unloaded["alpaca"].side == "chunked-jsq"
    assert len({run.side for run in store.runs[:3]}) == 3 or len(store.runs) < 3
    assert store.runs
    for run in store.runs:
        assert run.offered > 0
        assert run.failed == 0
        assert run.engine_cpu_s > 0
        assert run.front_cpu_s > 0
    assert Store(store.path, HEADER).runs == store.runs
    assert list((tmp_path / "work" / "run-padg" / "journal").iterdir())
    page = as_markdown([store], [0.9], "made")
    assert f"| alpaca | {store.runs[0].side} | {store.runs[0].rate:.2f} |" in page
