"""Draws a chart into an SVG file of its own: the same data gives the same bytes on every machine.

Charts of the HTML report are drawn by `rondo_bench.report.plots`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@contextmanager
def svg_file(
    path: Path, salt: str, size_inches: tuple[float, float], *, framed_legend: bool = True
) -> Iterator[Figure]:
    """A figure to draw on, written at the end; `salt` makes the ids of its elements."""
    style = {**_RC, "svg.hashsalt": salt, "legend.frameon": framed_legend}
    with mpl.rc_context(style):
        figure = Figure(figsize=size_inches, layout="constrained")
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})
