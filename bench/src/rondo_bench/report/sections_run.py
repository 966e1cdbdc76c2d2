"""The sections on single runs: curves, the checks beyond the paper, mitosis, parity, speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rondo_bench.report import paper
from rondo_bench.report.data import (
    BeyondRecord,
    CurveRecord,
    MitosisRecord,
    ParityRecord,
    Results,
    SpeedRecord,
    in_order,
    rank,
)
from rondo_bench.report.plots import Plot, Point, draw, flat_bars, lines, log_axis
from rondo_bench.report.section import TITLES, Section
from rondo_bench.report.style import DATASETS, LOOKS, OTHER, SYSTEMS, label
from rondo_bench.report.tables import MISSING, Cell, Table, number, percent, texts

SHARE = "attainment"
#: Field of a curve's record, and the axis it is drawn on.
_CURVE_ROWS = (
    (SHARE, "requests in SLO, share"),
    ("ttft_p99", "p99 TTFT, s"),
    ("tpot_p99", "p99 TPOT, s"),
)


def curves_section(results: Results) -> Section:
    """Attainment and tails over the offered rate."""
    records = results.records("curves", CurveRecord)
    section = Section("curves", TITLES["curves"])
    section.text = [
        "Share of requests that meet their objective, and 99th percentiles of TTFT and TPOT, as "
        "the offered rate grows; the dotted lines are attainments of 0.99 and 0.9."
    ]
    section.plots = [_curves_plot(records)]
    ordered = sorted(
        records, key=lambda r: (rank(r.dataset, DATASETS), rank(r.system, SYSTEMS), r.rate)
    )
    rows = [
        [
            *texts(label(r.dataset), label(r.system), number(r.rate)),
            *(percent(v) for v in (r.attainment, r.attainment_ttft, r.attainment_tpot)),
            *texts(*map(number, (r.ttft_p50, r.ttft_p99, r.tpot_p50, r.tpot_p99))),
        ]
        for r in ordered
    ]
    heads = ["data set", "system", "requests/s", "in SLO", "in TTFT", "in TPOT"]
    heads += ["TTFT p50, s", "TTFT p99, s", "TPOT p50, s", "TPOT p99, s"]
    section.tables = [Table("Every point of the curves.", heads, rows, 3, folded=True)]
    return section


def _curves_plot(records: Sequence[CurveRecord]) -> Plot:
    datasets = in_order([r.dataset for r in records], DATASETS)
    systems = in_order([r.system for r in records], SYSTEMS)

    def paint(axes: Any) -> None:
        for column, dataset in enumerate(datasets):
            for row, (field, title) in enumerate(_CURVE_ROWS):
                axis = axes[row][column]
                series = {system: _curve(records, dataset, system, field) for system in systems}
                lines(axis, {system: points for system, points in series.items() if points})
                axis.set_xlabel("offered rate, requests/s")
                if column == 0:
                    axis.set_ylabel(title)
                if row == 0:
                    axis.set_title(label(dataset))
                    for target in (0.99, 0.9):
                        axis.axhline(target, linestyle=":", linewidth=0.9, color=OTHER.light)
                else:
                    log_axis(axis)

    caption = "Attainment, p99 TTFT and p99 TPOT over the offered rate."
    return draw("curves", caption, (len(_CURVE_ROWS), len(datasets)), (3.6, 2.3), paint)


def _curve(records: Sequence[CurveRecord], dataset: str, system: str, field: str) -> list[Point]:
    """Points of one line. A time of 0, which a logarithmic axis has no place for, is left out."""
    values = [(r, getattr(r, field)) for r in records if (r.dataset, r.system) == (dataset, system)]
    return [Point(r.rate, v) for r, v in values if v is not None and (v > 0 or field == SHARE)]


def beyond_section(results: Results) -> Section:
    """A table for each check."""
    records = results.records("beyond", BeyondRecord)
    section = Section("beyond", TITLES["beyond"])
    section.text = [
        "What the paper does not show: low load, overload, very long prompts among running "
        "streams, and the like. Shares are between 0 and 1, times in seconds, rates in requests/s."
    ]
    for check in dict.fromkeys(r.check for r in records):
        chosen = [r for r in records if r.check == check]
        chosen.sort(key=lambda r: (rank(r.dataset, DATASETS), rank(r.system, SYSTEMS)))
        names = list(dict.fromkeys(name for r in chosen for name in r.values))
        rows = [
            texts(label(r.dataset), label(r.system), *(number(r.values.get(n)) for n in names))
            for r in chosen
        ]
        heads = ["data set", "system", *(name.replace("_", " ") for name in names)]
        section.tables.append(Table(f"{check[:1].upper()}{check[1:]}.", heads, rows, 2))
    return section


#: Series of the scaling run, and the axis of each panel.
_MITOSIS_ROWS = (
    (("rate",), "requests/s"),
    (("instances", "macros"), "number"),
    (("attainment",), "in SLO, share"),
    (("busy",), "busy, share"),
)
#: Colours and names of its lines.
_MITOSIS_LOOKS = {
    "rate": (LOOKS["nodg-jsq"], "offered rate"),
    "instances": (LOOKS["padg"], "instances"),
    "macros": (LOOKS["fudg"], "macro-instances"),
    "attainment": (LOOKS["chunked-jsq"], "attainment"),
    "busy": (LOOKS["padg-paper"], "busy share"),
}


def mitosis_section(results: Results) -> Section:
    """The run over time, and its events."""
    records = results.records("mitosis", MitosisRecord)
    section = Section("mitosis", TITLES["mitosis"])
    section.text = [
        "Load rises and then falls; instances are added and removed, macro-instances split and "
        "merge. Dotted lines are the events of the table."
    ]
    section.plots = [_mitosis_plot(records)]
    events = sorted((r for r in records if r.series == "event"), key=lambda r: r.t_s)
    rows = [texts(f"{r.t_s:.1f}", r.text) for r in events]
    section.tables = [paper.mitosis_beside_paper(records)]
    if rows:
        section.tables.append(Table("Events.", ["at, s", "event"], rows, folded=len(rows) > 12))
    return section


def _mitosis_plot(records: Sequence[MitosisRecord]) -> Plot:
    present = {r.series for r in records}
    panels = [row for row in _MITOSIS_ROWS if present.intersection(row[0])] or [_MITOSIS_ROWS[0]]
    events = sorted(r.t_s for r in records if r.series == "event")

    def paint(axes: Any) -> None:
        for axis, (names, title) in zip(axes[:, 0], panels, strict=True):
            for name in names:
                _course(axis, name, records)
            for at_s in events:
                axis.axvline(at_s, linestyle=":", linewidth=0.7, color=OTHER.light)
            axis.set_ylabel(title)
            axis.set_ylim(0, 1.05 if title.endswith("share") else None)
        axes[-1][0].set_xlabel("time, s")

    caption = "Load, size, attainment and busy share over time."
    return draw("mitosis", caption, (len(panels), 1), (7.4, 1.5), paint, share_x=True)


def _course(axis: Any, name: str, records: Sequence[MitosisRecord]) -> None:
    """One line of the run; what is counted or set moves in steps, what is sampled does not."""
    points = sorted((r.t_s, r.value) for r in records if r.series == name)
    if not points:
        return
    shown, text = _MITOSIS_LOOKS[name]
    style = "default" if name in ("attainment", "busy") else "steps-post"
    axis.plot(*zip(*points, strict=True), drawstyle=style, color=shown.light, label=text)


def parity_section(results: Results) -> Section:
    """Live and simulated metrics, and their errors."""
    records = results.records("parity", ParityRecord)
    section = Section("parity", TITLES["parity"])
    section.text = [
        "The same workload on a live cluster of emulated instances and in the simulator. Errors "
        "are relative; those of attainment are differences in points (0.01 of a share)."
    ]
    names = [f"{r.workload}: {r.metric}" for r in records]

    def paint(axes: Any) -> None:
        points = [Point(0, r.error * 100) for r in records]
        flat_bars(axes[0][0], names, points, ["parity"] * len(names))
        axes[0][0].set_xlabel("error, % (attainment: points)")
        axes[0][0].axvline(0, linewidth=0.8, color=OTHER.light)

    caption = "Error of the simulator against the live cluster."
    size = (6.4, 0.26 * len(names) + 0.6)
    section.plots = [draw("parity", caption, (1, 1), size, paint)]
    rows = [
        [*texts(r.workload, r.metric, number(r.live), number(r.simulated)), _error(r)]
        for r in records
    ]
    heads = ["workload", "metric", "live", "simulated", "error"]
    section.tables = [Table("Metrics, times in seconds.", heads, rows, 2)]
    return section


def _error(record: ParityRecord) -> Cell:
    unit = "points" if "attainment" in record.metric else "%"
    return Cell(f"{record.error * 100:+.1f} {unit}")


def speed_section(results: Results) -> Section:
    """What was timed."""
    records = results.records("speed", SpeedRecord)
    section = Section("speed", TITLES["speed"])
    section.text = ["How long decisions and simulations take, each measured by its command."]
    rows = [
        texts(r.what, f"{number(r.value)} {r.unit}", r.command or MISSING.text) for r in records
    ]
    section.tables = [Table("Speed.", ["what", "value", "command"], rows)]
    return section
