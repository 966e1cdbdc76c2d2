"""Everything of the simulated instance, run and written: tables, chart, the real runs' section."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rondo_bench.econoserve.chart import draw_all
from rondo_bench.econoserve.drive import Run
from rondo_bench.econoserve.page import TITLES, PageData, write_page
from rondo_bench.econoserve.real_page import real_section
from rondo_bench.econoserve.real_record import RealRecord
from rondo_bench.econoserve.simulated import Setup, latency_model, run_once
from rondo_bench.econoserve.study import (
    BASE,
    OVERLOAD,
    PolicyStudy,
    Scope,
    compare,
    take_apart,
    vary_predictions,
)
from rondo_bench.econoserve.workloads import WORKLOADS
from rondo_bench.marked_page import read_page

#: The workload that is taken apart.
MAIN = "sharegpt"
#: Policies whose KV pool is drawn, and whose predictions are varied.
DRAWN = ("econoserve", BASE)
TOLD = ("econoserve", "shortest-first")
#: Seconds of a run that are drawn.
SPAN_S = (100.0, 220.0)


def write_all(
    path: Path,
    scope: Scope,
    level_s: float,
    real_record: Path | None,
    pool: ProcessPoolExecutor,
    say: Callable[[str], None],
) -> None:
    """Runs the whole study; writes the page's tables, as far as they are there, and the chart.

    Raises:
        ConfigError: the page or the record of real runs is not there, or not as it must be.
    """
    read_page(path)  # before minutes of work
    data = PageData(level_s, _runs(scope))
    if real_record is not None:
        data.real = real_section(RealRecord.load(real_record))
    main = data.workloads[MAIN] = compare(MAIN, scope, level_s, pool, say)
    bend = main[BASE].rates[level_s]
    write_page(path, data)
    data.parts = take_apart(MAIN, main["econoserve"].setup, scope, bend, pool)
    setups = {policy: main[policy].setup for policy in TOLD}
    data.predictions = vary_predictions(MAIN, setups, scope, bend, pool)
    write_page(path, data)
    for workload in (each for each in WORKLOADS if each != MAIN):
        data.workloads[workload] = compare(workload, scope, level_s, pool, say)
        write_page(path, data)
    chart = path.with_suffix(".svg")
    bends = {workload: each[BASE].rates[level_s] for workload, each in data.workloads.items()}
    draw_all(data.workloads, bends, _drawn(main, scope, OVERLOAD * bend), SPAN_S, chart)
    data.chart = chart.name
    write_page(path, data)


def _runs(scope: Scope) -> str:
    spans = (
        f"{scope.seconds * each.seconds:g} s of {TITLES[name]}" for name, each in WORKLOADS.items()
    )
    return f"Requests come for {', '.join(spans)}; means over {len(scope.seeds)} draws."


def _drawn(studies: Mapping[str, PolicyStudy], scope: Scope, rate: float) -> dict[str, Run]:
    return {policy: _run(studies[policy].setup, scope, rate) for policy in DRAWN}


def _run(setup: Setup, scope: Scope, rate: float) -> Run:
    return run_once(setup, scope.draws(MAIN)[0].at_rate(rate), latency_model())
