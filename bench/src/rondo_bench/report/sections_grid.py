"""The section on the end-to-end grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rondo_bench.report import paper
from rondo_bench.report.data import GridRecord, Results, in_order
from rondo_bench.report.plots import Plot, bars, draw, point
from rondo_bench.report.ratios import RATIOS, Case, Grid, geometric_mean, smallest
from rondo_bench.report.section import RATE_LABEL, TITLES, Section
from rondo_bench.report.style import CEILING, SYSTEMS, label, percentile
from rondo_bench.report.tables import (
    MISSING,
    Cell,
    Table,
    goodput,
    goodput_row,
    number,
    texts,
    times,
)


def grid_section(results: Results) -> Section:
    """Ratios of all GPUs, the paper's figures, then for each GPU a figure and its tables."""
    records = results.records("grid", GridRecord)
    grid = Grid(records)
    systems = in_order([r.system for r in records if r.system != CEILING], SYSTEMS)
    section = Section("grid", TITLES["grid"])
    section.text = [
        "Goodput is the highest rate at which the given share of requests meets both limits, TTFT "
        "(with the wait for the phase switch) and TPOT. Every rival is tuned for each case. "
        "A smaller second line is the interval over seeds; the best of a row is bold; "
        "† marks a goodput below which some lower rate missed the target. The ceiling is what the "
        "steps' durations allow any schedule that moves no KV, in the long run, with no limit to "
        "memory and TTFT."
    ]
    section.tables = [ratio_summary(grid)]
    if beside := paper.grid_beside_paper(grid):
        section.tables.append(beside)
    section.plots = [_grid_plot(grid, gpu, systems) for gpu in grid.gpus]
    for gpu in grid.gpus:
        for target in grid.targets:
            if cases := grid.select(gpu, target):
                section.tables.append(_grid_table(cases, systems))
    section.tables.append(_tuned_table(records))
    return section


def ratio_summary(grid: Grid) -> Table:
    """Geometric mean and least of each ratio, by GPU and target."""
    rows = []
    for gpu in grid.gpus:
        for target in grid.targets:
            cases = grid.select(gpu, target)
            if not cases:
                continue
            cells = [Cell(label(gpu)), Cell(percentile(target)), Cell(str(len(cases)))]
            for ratio in RATIOS:
                values = [case.ratio(ratio) for case in cases]
                least = smallest(values)
                detail = "" if least is None else f"least {least:.2f}×"
                cells.append(Cell(times(geometric_mean(values)).text, detail))
            rows.append(cells)
    heads = ["GPU", "target", "cases", *(ratio.name for ratio in RATIOS)]
    caption = "Ratios of goodputs: geometric mean over the cases, and the least of them."
    return Table(caption, heads, rows, 2)


def _grid_table(cases: Sequence[Case], systems: Sequence[str]) -> Table:
    rows = []
    for case in cases:
        row = goodput_row(case.systems.get(system) for system in systems)
        for index, system in enumerate(systems):
            record = case.systems.get(system)
            if record is not None and record.dips:
                row[index] = goodput(record, best=row[index].best, mark=" †")
        ratios = [times(case.ratio(ratio)) for ratio in RATIOS]
        rows.append([*texts(label(case.dataset), label(case.model)), *row, *ratios])
    means = [times(geometric_mean(case.ratio(ratio) for case in cases)) for ratio in RATIOS]
    rows.append([*texts("geometric mean", ""), *texts(*[""] * len(systems)), *means])
    heads = ["data set", "model", *map(label, systems), *(ratio.name for ratio in RATIOS)]
    sizes = sorted({r.instances for case in cases for r in case.systems.values()})
    caption = (
        f"{label(cases[0].gpu)}, {percentile(cases[0].target)}: goodput in requests/s, "
        f"{' or '.join(map(str, sizes))} instances."
    )
    return Table(caption, heads, rows, 2, last_is_total=True)


def _grid_plot(grid: Grid, gpu: str, systems: Sequence[str]) -> Plot:
    def paint(axes: Any) -> None:
        for row, target in enumerate(grid.targets):
            for column, dataset in enumerate(grid.datasets):
                axis = axes[row][column]
                cases = grid.select(gpu, target, dataset=dataset)
                series = {
                    system: [point(r) if (r := c.systems.get(system)) else None for c in cases]
                    for system in systems
                }
                bars(axis, [label(case.model) for case in cases], series)
                axis.set_title(f"{label(dataset)}, {percentile(target)}")
            axes[row][0].set_ylabel(RATE_LABEL)

    shape = (len(grid.targets), len(grid.datasets))
    caption = f"{label(gpu)}: goodput by data set, target and model; bars: interval over seeds."
    return draw(f"grid-{gpu}", caption, shape, (3.6, 2.3), paint)


def _tuned_table(records: Sequence[GridRecord]) -> Table:
    ordered = sorted(records, key=lambda r: (r.gpu, r.model, r.dataset, r.system, -r.target))
    rows = []
    for r in ordered:
        if r.tuned or r.dips:
            names = (r.gpu, r.model, r.dataset, r.system)
            tuned = ", ".join(f"{name} {value:g}" for name, value in sorted(r.tuned.items()))
            dips = ", ".join(map(number, r.dips))
            cells = (*map(label, names), percentile(r.target), tuned, dips)
            rows.append(texts(*(text or MISSING.text for text in cells)))
    heads = ["GPU", "model", "data set", "system", "target", "tuned to", "rates that dipped"]
    return Table("What was tuned, and dips of attainment below the goodput.", heads, rows, 4, True)
