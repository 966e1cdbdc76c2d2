"""The section on instances that specialise by predicted answer length."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rondo_bench.report.data import LengthsRecord, Results, in_order, rank
from rondo_bench.report.ratios import geometric_mean
from rondo_bench.report.section import TITLES, Section
from rondo_bench.report.style import CEILING, DATASETS, MODELS, label, percentile
from rondo_bench.report.tables import MISSING, Cell, Table, goodput, number, texts, times

#: Predictions in the order of their worth.
PREDICTIONS = ("exact", "near", "mean")

#: (target, data set, model)
_Case = tuple[float, str, str]


def lengths_section(results: Results) -> Section:
    """Goodput with classes over goodput without, by what was predicted."""
    records = results.records("lengths", LengthsRecord)
    section = Section("lengths", TITLES["lengths"])
    section.text = [
        "Goodput with instances in classes of predicted answer length, over that with all "
        "instances alike, on the same requests and predictions: exact, nearly so (the errors of a "
        "near-oracle), and the running mean, which says nothing about a request."
    ]
    if runs := [r for r in records if r.prediction != CEILING]:
        section.tables.append(_runs(runs))
    if bounds := [r for r in records if r.prediction == CEILING]:
        section.tables.append(_bounds(bounds))
    return section


def _runs(records: Sequence[LengthsRecord]) -> Table:
    """A row a case and target: goodput alike, and the ratio for each prediction."""
    predictions = in_order([r.prediction for r in records], PREDICTIONS)
    columns = [(p, k) for p in predictions for k in _numbers(records) if k]
    found = {(_case(r), r.prediction, r.classes): r for r in records}
    rows, ratios = [], []
    for case in _cases(records):
        alike = next((r for p in predictions if (r := found.get((case, p, 0)))), None)
        ratio = [_over(found.get((case, p, k)), found.get((case, p, 0))) for p, k in columns]
        rows.append([*_labels(case), _alike(alike), *map(times, ratio)])
        ratios.append(ratio)
    rows.append([*texts("geometric mean", "", ""), MISSING, *_means(ratios)])
    heads = [f"{k} classes, {p}" for p, k in columns]
    caption = (
        "Goodput in requests/s with all instances alike, and ratios to it, of the middles of the "
    )
    caption += "intervals: with classes over alike, both told the same predictions."
    return Table(caption, ["target", "data set", "model", "alike", *heads], rows, 3, False, True)


def _bounds(records: Sequence[LengthsRecord]) -> Table:
    """A row a case: the ceiling alike, and the ratio for each number of classes."""
    numbers = [k for k in _numbers(records) if k]
    found = {(_case(r), r.classes): r for r in records}
    rows, ratios = [], []
    for case in _cases(records):
        alike = found.get((case, 0))
        ratio = [_over(found.get((case, k)), alike) for k in numbers]
        rows.append([*_labels(case)[1:], _alike(alike), *map(times, ratio)])
        ratios.append(ratio)
    rows.append([*texts("geometric mean", ""), MISSING, *_means(ratios)])
    caption = "The ceiling of the steps' durations in requests/s, and its ratios to that."
    heads = [f"{k} classes" for k in numbers]
    return Table(caption, ["data set", "model", "alike", *heads], rows, 2, False, True)


def _case(record: LengthsRecord) -> _Case:
    return record.target, record.dataset, record.model


def _cases(records: Sequence[LengthsRecord]) -> list[_Case]:
    def order(case: _Case) -> tuple[object, ...]:
        return -case[0], rank(case[1], DATASETS), rank(case[2], MODELS)

    return sorted({_case(r) for r in records}, key=order)


def _labels(case: _Case) -> list[Cell]:
    return texts(percentile(case[0]), label(case[1]), label(case[2]))


def _numbers(records: Sequence[LengthsRecord]) -> list[int]:
    return sorted({r.classes for r in records})


def _alike(record: LengthsRecord | None) -> Cell:
    """A bound and a run of one seed have no interval."""
    if record and record.low == record.high:
        return Cell(number(record.low))
    return goodput(record)


def _over(above: LengthsRecord | None, below: LengthsRecord | None) -> float | None:
    return _middle(above) / _middle(below) if above and below and below.low else None


def _middle(record: LengthsRecord) -> float:
    """Of the seeds' own goodputs: finer than the rate, which is one of those that were tried."""
    return math.sqrt(record.low * record.high)


def _means(ratios: Sequence[Sequence[float | None]]) -> list[Cell]:
    return [times(geometric_mean(column)) for column in zip(*ratios, strict=True)]
