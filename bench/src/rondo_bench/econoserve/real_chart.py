"""Draws how full the KV pool was in saturated runs, one panel a policy, as an SVG file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rondo_bench.econoserve.drive import Run
from rondo_bench.svg_file import svg_file

#: Of Okabe and Ito (2008), told apart by the colour-blind.
USED, OWNED, INK = "#0072B2", "#E69F00", "#444444"


def draw_pools(runs: Mapping[str, Run], path: Path) -> None:
    """Writes the chart: blocks in use (hold tokens or are about to), and those set aside, too."""
    with svg_file(path, "kv", (11, 1.7 * len(runs) + 0.9)) as figure:
        panels = figure.subplots(len(runs), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
        for panel, (title, run) in zip(panels, runs.items(), strict=True):
            _draw_run(panel, run)
            panel.set_title(title, loc="left", fontsize=9)
        panels[-1].set_xlabel("seconds")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _draw_run(panel: Any, run: Run) -> None:
    at_s = [step.began_s for step in run.steps]
    used = [100 * step.used_blocks / run.num_blocks for step in run.steps]
    owned = [100 * step.owned_blocks / run.num_blocks for step in run.steps]
    panel.fill_between(at_s, used, step="post", color=USED, alpha=0.6, linewidth=0, label="in use")
    panel.step(at_s, owned, where="post", color=OWNED, linewidth=1.2, label="in use or set aside")
    panel.set_ylim(0, 105)
    panel.set_ylabel("% of the pool")
    panel.axhline(100, color=INK, linewidth=0.5)
