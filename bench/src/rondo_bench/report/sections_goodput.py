"""The sections on goodput by objective, burst, size, and part of the policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rondo_bench.report import paper
from rondo_bench.report.data import (
    AblationRecord,
    BurstRecord,
    Results,
    ScaleRecord,
    SloRecord,
    SystemGoodput,
    in_order,
    rank,
)
from rondo_bench.report.plots import Plot, Series, bars, draw, flat_bars, lines, point
from rondo_bench.report.section import RATE_LABEL, TITLES, Section
from rondo_bench.report.style import DATASETS, MODELS, OTHER, SYSTEMS, TARGETS, label, percentile
from rondo_bench.report.tables import MISSING, Table, goodput, goodput_row, texts, times

G = TypeVar("G", bound=SystemGoodput)


def slo_section(results: Results) -> Section:
    """Goodput by objective."""
    records = results.records("slo", SloRecord)
    section = Section("slo", TITLES["slo"])
    section.text = ["Goodput as the limits on TTFT and TPOT get tighter or looser."]
    slos = sorted({(r.ttft_s, r.tpot_s) for r in records}, reverse=True)
    if beside := paper.slo_beside_paper(records):
        section.tables.append(beside)
    names = {slo: f"{slo[0]:g} s, {slo[1] * 1000:g} ms" for slo in slos}
    section.plots = [
        _panels(
            f"slo-{percentile(target)}",
            target,
            records,
            lambda axis, chosen: _slo_bars(axis, chosen, names),
        )
        for target in in_order([r.target for r in records], TARGETS)
    ]
    section.tables.append(
        _by_system(records, ["TTFT, TPOT"], lambda r: (names[r.ttft_s, r.tpot_s],), names.values())
    )
    return section


def _slo_bars(
    axis: Any, records: Sequence[SloRecord], names: dict[tuple[float, float], str]
) -> None:
    found = {(r.system, r.ttft_s, r.tpot_s): r for r in records}
    series = {
        system: [point(r) if (r := found.get((system, *slo))) else None for slo in names]
        for system in in_order([r.system for r in records], SYSTEMS)
    }
    bars(axis, [name.replace(", ", ",\n") for name in names.values()], series)
    axis.set_xlabel("limits on TTFT, TPOT")


def bursts_section(results: Results) -> Section:
    """Goodput over the coefficient of variation of arrivals."""
    records = results.records("bursts", BurstRecord)
    section = Section("bursts", TITLES["bursts"])
    section.text = [
        "Goodput under Gamma arrivals; a coefficient of variation (CV) of 1 is Poisson. The paper "
        "shows CVs of 1.2, 1.5 and 2.0."
    ]

    def paint(axis: Any, chosen: Sequence[BurstRecord]) -> None:
        lines(axis, _series(chosen, lambda r: r.cv))
        axis.set_ylim(bottom=0)
        axis.set_xlabel("CV of the times between arrivals")

    section.plots = [
        _panels(f"bursts-{percentile(target)}", target, records, paint)
        for target in in_order([r.target for r in records], TARGETS)
    ]
    order = [f"{cv:g}" for cv in sorted({r.cv for r in records})]
    section.tables = [_by_system(records, ["CV"], lambda r: (f"{r.cv:g}",), order)]
    return section


def scale_section(results: Results) -> Section:
    """Goodput over the number of instances."""
    records = results.records("scale", ScaleRecord)
    section = Section("scale", TITLES["scale"])
    section.text = [
        "Goodput of 1 to 8 instances. One instance must prefill and decode in turns of its own; "
        "more of them take turns for each other, so that goodput may grow faster than their number."
    ]
    if beside := paper.scale_beside_paper(records):
        section.tables.append(beside)

    def paint(axis: Any, chosen: Sequence[ScaleRecord]) -> None:
        lines(axis, _series(chosen, lambda r: float(r.instances)))
        _linear(axis, chosen)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("instances")

    for model in in_order([r.model for r in records], MODELS):
        of_model = [r for r in records if r.model == model]
        for target in in_order([r.target for r in of_model], TARGETS):
            name = f"scale-{model}-{percentile(target)}"
            section.plots.append(_panels(name, target, of_model, paint, f"{label(model)}, "))
        order = [str(n) for n in sorted({r.instances for r in of_model})]
        table = _by_system(
            of_model, ["instances"], lambda r: (str(r.instances),), order, f"{label(model)}: "
        )
        section.tables.append(table)
    return section


def _linear(axis: Any, records: Sequence[ScaleRecord]) -> None:
    """The line of a system that grows with its instances: the paper's policy, where it has one."""
    one = next((r for r in records if (r.system, r.instances) == ("padg-paper", 1)), None)
    if one is not None:
        most = max(r.instances for r in records)
        line = [1, most], [one.rate, one.rate * most]
        axis.plot(*line, ":", color=OTHER.light, label="linear from the paper's policy")


def _series(records: Sequence[G], x: Callable[[G], float]) -> Series:
    series: Series = {}
    systems = [r.system for r in records]
    for system in in_order(systems, SYSTEMS):
        series[system] = [
            point(r, x(r)) for r, name in zip(records, systems, strict=True) if name == system
        ]
    return series


def _panels(
    name: str,
    target: float,
    records: Sequence[G],
    paint: Callable[[Any, Sequence[G]], None],
    prefix: str = "",
) -> Plot:
    """One panel a data set, painted with its records at a target."""
    chosen = [r for r in records if r.target == target]
    datasets = in_order([r.dataset for r in chosen], DATASETS)

    def paint_all(axes: Any) -> None:
        for axis, dataset in zip(axes[0], datasets, strict=True):
            paint(axis, [r for r in chosen if r.dataset == dataset])
            axis.set_title(label(dataset))
        axes[0][0].set_ylabel(RATE_LABEL)

    caption = f"{prefix}{percentile(target)} goodput; bars: interval over seeds."
    width = 3.6 if len(datasets) > 1 else 5.4
    return draw(name, caption, (1, len(datasets)), (width, 2.7), paint_all)


def _by_system(
    records: Sequence[G],
    heads: Sequence[str],
    values: Callable[[G], tuple[str, ...]],
    order: Any,
    prefix: str = "",
) -> Table:
    """Goodputs: a row for each target, data set and value; a column a system."""
    systems = in_order([r.system for r in records], SYSTEMS)
    found = {(r.target, r.dataset, values(r), r.system): r for r in records}
    known = list(order)
    cases = sorted(
        {key[:3] for key in found},
        key=lambda case: (-case[0], rank(case[1], DATASETS), known.index(case[2][0])),
    )
    rows = [
        [
            *texts(percentile(target), label(dataset), *value),
            *goodput_row(found.get((target, dataset, value, system)) for system in systems),
        ]
        for target, dataset, value in cases
    ]
    columns = ["target", "data set", *heads, *map(label, systems)]
    return Table(f"{prefix}goodput in requests/s.", columns, rows, 2 + len(heads))


def ablations_section(results: Results) -> Section:
    """Goodput of variants of our policy, and their ratio to it."""
    records = results.records("ablations", AblationRecord)
    section = Section("ablations", TITLES["ablations"])
    section.text = [
        "One part of our policy exchanged at a time; `padg` is the whole of it. The paper reports "
        "that cyclic beats random choice of the instance, and adaptive admission beats routing at "
        "fixed intervals of 1/4, 1/2, 3/4 and 1 of the TTFT limit."
    ]
    for target in in_order([r.target for r in records], TARGETS):
        chosen = [r for r in records if r.target == target]
        datasets = in_order([r.dataset for r in chosen], DATASETS)
        variants = in_order([r.variant for r in chosen], ("padg",))
        section.plots.append(_ablation_plot(chosen, target, datasets, variants))
        found = {(r.variant, r.dataset): r for r in chosen}
        rows = []
        for variant in variants:
            row = texts(variant)
            for dataset in datasets:
                record, whole = found.get((variant, dataset)), found.get(("padg", dataset))
                share = (
                    times(record.rate / whole.rate) if record and whole and whole.rate else MISSING
                )
                row += [goodput(record), share]
            rows.append(row)
        heads = [text for d in datasets for text in (label(d), "to padg")]
        caption = f"{percentile(target)} goodput in requests/s, and its ratio to the whole policy."
        section.tables.append(Table(caption, ["variant", *heads], rows))
    return section


def _ablation_plot(
    records: Sequence[AblationRecord],
    target: float,
    datasets: Sequence[str],
    variants: Sequence[str],
) -> Plot:
    found = {(r.variant, r.dataset): r for r in records}

    def paint(axes: Any) -> None:
        for axis, dataset in zip(axes[0], datasets, strict=True):
            names = [variant for variant in variants if (variant, dataset) in found]
            flat_bars(axis, names, [point(found[name, dataset]) for name in names], names)
            axis.set_title(label(dataset))
            axis.set_xlabel(RATE_LABEL)

    size = (4.2, 0.28 * len(variants) + 0.8)
    caption = f"{percentile(target)} goodput of variants; bars: interval over seeds."
    return draw(f"ablations-{percentile(target)}", caption, (1, len(datasets)), size, paint)
