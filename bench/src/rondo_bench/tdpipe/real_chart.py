"""Draws what the stages of a pipeline did over time, one panel a scheduler, as an SVG file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.patches import Patch

from rondo.types import Phase
from rondo_bench.svg_file import svg_file
from rondo_bench.tdpipe.real_run import RealRun

#: Of Okabe and Ito (2008), told apart by the colour-blind.
COLOURS = {Phase.PREFILL: "#E69F00", Phase.DECODE: "#0072B2", Phase.FUSED: "#009E73"}
INK = "#444444"


def draw_stages(runs: Mapping[str, RealRun], path: Path) -> None:
    """Writes the chart of a run of each scheduler; white is a stage without work."""
    with svg_file(path, "stages", (11, 1.3 * len(runs) + 0.9)) as figure:
        panels = figure.subplots(len(runs), 1, squeeze=False, sharex=True)[:, 0]
        for panel, (name, run) in zip(panels, runs.items(), strict=True):
            _draw_run(panel, run)
            title = f"{name}: {run.tokens_per_s:.0f} tokens/s, bubbles {run.bubble_share:.1%}"
            panel.set_title(title, loc="left", fontsize=9)
        panels[-1].set_xlabel("seconds")
        seen = {span.phase for run in runs.values() for line in run.spans for span in line}
        patches = [Patch(color=COLOURS[p], label=p.value) for p in COLOURS if p in seen]
        patches.append(Patch(facecolor="none", edgecolor=INK, label="drain: not counted"))
        figure.legend(handles=patches, loc="outside lower center", ncols=len(patches))


def _draw_run(panel: Any, run: RealRun) -> None:
    for stage, line in enumerate(run.spans):
        for phase, colour in COLOURS.items():
            pieces = [
                (span.begin_s - run.began_s, span.end_s - span.begin_s)
                for span in line
                if span.phase is phase
            ]
            panel.broken_barh(pieces, (stage - 0.4, 0.8), facecolors=colour, linewidth=0)
    drains_s = run.prompts_done_s - run.began_s
    panel.axvspan(drains_s, run.duration_s, facecolor="none", edgecolor=INK, linewidth=0.6)
    panel.set_yticks(range(len(run.spans)), [f"stage {n}" for n in range(len(run.spans))])
    panel.invert_yaxis()
