"""Drawing: figures of matplotlib as inline SVG whose colours follow the page's scheme.

The same data gives the same bytes: ids are salted with the figure's name and no date is written.
Shades are drawn as the light scheme has them and then replaced by the page's CSS variables.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from rondo_bench.report.data import Goodput
from rondo_bench.report.style import GRID, INK, css_variables, label, look

_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same layout on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "grid.color": GRID.light,
    "text.color": INK.light,
    "axes.labelcolor": INK.light,
    "axes.edgecolor": INK.light,
    "xtick.color": INK.light,
    "ytick.color": INK.light,
    "axes.prop_cycle": cycler(color=[INK.light]),  # of what is given no colour: caps of bars
    "legend.frameon": False,
    "lines.markersize": 4.5,
    "lines.linewidth": 1.4,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True, slots=True)
class Plot:
    """An SVG element and what it shows."""

    svg: str
    caption: str


@dataclass(frozen=True, slots=True)
class Point:
    """A value with its interval; x counts where lines are drawn."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


def point(record: Goodput, x: float = 0.0) -> Point:
    """A goodput with its interval over seeds."""
    return Point(x, record.rate, record.low, record.high)


#: Points of each system.
Series = dict[str, list[Point]]


def draw(
    name: str,
    caption: str,
    shape: tuple[int, int],
    panel_inches: tuple[float, float],
    paint: Callable[[Any], None],
    *,
    share_x: bool = False,
) -> Plot:
    """Paints `shape` (rows, columns) panels, gives them one legend below, and returns the SVG.

    Args:
        name: unique on the page; prefixes the SVG's ids.
        paint: called with the two-dimensional array of `Axes`.
    """
    rows, columns = shape
    name = re.sub(r"[^\w.-]", "-", name)
    with mpl.rc_context({**_RC, "svg.hashsalt": name}):
        size = (columns * panel_inches[0], rows * panel_inches[1] + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=share_x)
        paint(axes)
        _legend(figure, axes)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return Plot(_inline(buffer.getvalue(), name, caption, size[0]), caption)


def _legend(figure: Figure, axes: Any) -> None:
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, text in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(text, handle)
    if handles:
        columns = min(len(handles), max(2, int(figure.get_figwidth() / 2.3)))
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=columns
        )


def _inline(svg: str, name: str, caption: str, inches: float) -> str:
    """Without prologue and page-wide styles; with ids and width of its own, colours by variable."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<metadata.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for variable, shades in css_variables().items():
        svg = svg.replace(shades.light, f"var({variable})")
    # hundredths of a point are finer than any screen, and a fifth of the file
    svg = re.sub(r' (?:d|x|y)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), svg)
    described = caption.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    width = f"min-width: {0.75 * inches:.1f}in; max-width: {1.35 * inches:.1f}in"
    return svg.replace("<svg", f'<svg role="img" aria-label="{described}" style="{width}"', 1)


def log_axis(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers at 1, 2 and 5 times the powers of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def lines(axes: Axes, series: Series) -> None:
    """One line a system, with bars for intervals."""
    for system, points in series.items():
        shown = look(system)
        ordered = sorted(points, key=lambda point: point.x)
        axes.errorbar(
            [p.x for p in ordered],
            [p.y for p in ordered],
            yerr=_intervals(ordered),
            color=shown.light,
            marker=shown.marker,
            linestyle=shown.dashes,
            capsize=2,
            elinewidth=0.9,
            label=label(system),
        )


def bars(axes: Axes, groups: Sequence[str], series: dict[str, list[Point | None]]) -> None:
    """A bar a system in each group, with bars for intervals; None leaves a gap."""
    width = 0.84 / max(1, len(series))
    for index, (system, points) in enumerate(series.items()):
        offset = (index - (len(series) - 1) / 2) * width
        there = [(g, p) for g, p in enumerate(points) if p is not None]
        axes.bar(
            [g + offset for g, _ in there],
            [p.y for _, p in there],
            width * 0.92,
            yerr=_intervals([p for _, p in there]),
            color=look(system).light,
            ecolor=INK.light,
            error_kw={"elinewidth": 0.8, "capsize": 1.5},
            label=label(system),
        )
    axes.set_xticks(range(len(groups)), list(groups))
    axes.grid(visible=False, axis="x")
    axes.set_ylim(bottom=0)


def flat_bars(
    axes: Axes, names: Sequence[str], points: Sequence[Point], systems: list[str]
) -> None:
    """Horizontal bars, the first on top, each in the colour of its system."""
    axes.barh(
        range(len(names)),
        [p.y for p in points],
        0.7,
        xerr=_intervals(points),
        color=[look(system).light for system in systems],
        ecolor=INK.light,
        error_kw={"elinewidth": 0.8, "capsize": 2},
    )
    axes.set_yticks(range(len(names)), list(names))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def _intervals(points: Sequence[Point]) -> Any:
    """How far the bars reach down and up. The mean of the seeds may lie outside their interval."""
    if not points or any(p.low is None or p.high is None for p in points):
        return None
    down = [max(0.0, p.y - (p.low or 0.0)) for p in points]
    up = [max(0.0, (p.high or 0.0) - p.y) for p in points]
    return np.array([down, up])
