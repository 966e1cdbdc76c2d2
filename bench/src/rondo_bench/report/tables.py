"""Tables as plain text in cells, rendered by the page and by the Markdown summary alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rondo_bench.report.data import Goodput


@dataclass(frozen=True, slots=True)
class Cell:
    """A text, a smaller second line, and whether it is the best of its row."""

    text: str
    detail: str = ""
    best: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """`rows` have a cell for each of `columns`; the first `num_labels` name the row.

    `folded`: shown when asked for, since it is long. `last_is_total`: the last row sums up.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    num_labels: int = 1
    folded: bool = False
    last_is_total: bool = False


MISSING = Cell("—")


def texts(*values: str) -> list[Cell]:
    """Cells of plain texts."""
    return [Cell(value) for value in values]


def number(value: float | None) -> str:
    """Three digits that count, without an exponent where it can be helped."""
    if value is None:
        return MISSING.text
    if value == 0 or 0.001 <= abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


def times(value: float | None) -> Cell:
    """A ratio such as 1.25×."""
    return MISSING if value is None else Cell(f"{value:.2f}×")


def percent(value: float | None, digits: int = 1) -> Cell:
    """A share as a percentage."""
    return MISSING if value is None else Cell(f"{value * 100:.{digits}f} %")


def goodput(record: Goodput | None, *, best: bool = False, mark: str = "") -> Cell:
    """The rate, and below it the interval over seeds."""
    if record is None:
        return MISSING
    interval = f"{number(record.low)}–{number(record.high)}"
    return Cell(number(record.rate) + mark, interval, best)


def goodput_row(records: Iterable[Goodput | None]) -> list[Cell]:
    """Goodputs of one case; the highest is marked."""
    found = list(records)
    rates = [record.rate for record in found if record is not None]
    top = max(rates, default=0.0)
    return [goodput(record, best=record is not None and record.rate == top > 0) for record in found]
