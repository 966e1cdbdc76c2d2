"""The summary: ratios, the paper's figures beside ours, and what else fits a page of Markdown."""

from __future__ import annotations

from rondo_bench.report.data import GridRecord, Results
from rondo_bench.report.paper import grid_beside_paper
from rondo_bench.report.ratios import Grid
from rondo_bench.report.section import TITLES, Section
from rondo_bench.report.sections_grid import ratio_summary
from rondo_bench.report.tables import Cell, Table

#: Sections that are short enough to be there whole.
_WHOLE = ("lengths", "instances", "parity", "speed")


def summary(results: Results, sections: list[Section], page: str) -> str:
    """Markdown; `page` is the link to the whole report."""
    parts = ["# Results of the experiments", f"Everything, with plots: [{page}]({page})."]
    if records := results.records("grid", GridRecord):
        grid = Grid(records)
        parts += ["## " + TITLES["grid"], markdown(ratio_summary(grid))]
        if beside := grid_beside_paper(grid):
            parts.append(markdown(beside))
    for section in sections:
        if section.key in _WHOLE and section.tables:
            parts += ["## " + section.title, *map(markdown, section.tables)]
    if missing := [section.title for section in sections if section.missing]:
        parts.append("No data: " + "; ".join(missing) + ".")
    return "\n\n".join(parts) + "\n"


def markdown(table: Table) -> str:
    """A table with its caption as a paragraph above."""
    marks = [":--" if i < table.num_labels else "--:" for i in range(len(table.columns))]
    rows = [list(map(_escape, table.columns)), marks, *([_cell(c) for c in r] for r in table.rows)]
    return "\n".join([table.caption, "", *("| " + " | ".join(row) + " |" for row in rows)])


def _cell(cell: Cell) -> str:
    text = _escape(cell.text)
    text = f"**{text}**" if cell.best else text
    return f"{text} ({_escape(cell.detail)})" if cell.detail else text


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
