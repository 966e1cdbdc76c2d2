"""Draws latency over rate and the use of the KV pool over time, as one SVG file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rondo_bench.econoserve.drive import Run
from rondo_bench.econoserve.study import PolicyStudy
from rondo_bench.svg_file import svg_file

#: Of Okabe and Ito (2008), told apart by the colour-blind.
COLOURS = {
    "econoserve": "#0072B2",
    "exact": "#56B4E9",
    "block-growth": "#D55E00",
    "chunked": "#E69F00",
    "max-length": "#999999",
    "shortest-first": "#009E73",
}
#: Beyond it nothing is told apart by where a line ends.
MOST_LATENCY_S = 2.0


def draw_all(
    studies: Mapping[str, Mapping[str, PolicyStudy]],
    bends: Mapping[str, float],
    runs: Mapping[str, Run],
    span_s: tuple[float, float],
    path: Path,
) -> None:
    """Writes the chart: a panel of curves for each workload, one of the pool for each run.

    Args:
        studies: by workload and policy. bends: requests per second that the curves' shares are of.
        runs: by policy, drawn from `span_s[0]` to `span_s[1]` seconds.
    """
    columns = max(len(studies), len(runs))
    with svg_file(path, "econoserve", (4.0 * columns, 6.4), framed_legend=False) as figure:
        axes = figure.subplots(2, columns, squeeze=False)
        for panel, (workload, policies) in zip(axes[0], studies.items(), strict=False):
            _curves(panel, policies, bends[workload])
            panel.set_title(workload, loc="left", fontsize=9)
        for panel, (policy, run) in zip(axes[1], runs.items(), strict=False):
            _pool(panel, run, span_s)
            panel.set_title(f"KV pool under {policy}", loc="left", fontsize=9)
        for panel in [*axes[0][len(studies) :], *axes[1][len(runs) :]]:
            panel.set_axis_off()
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _curves(panel: Any, policies: Mapping[str, PolicyStudy], bend: float) -> None:
    for policy, study in policies.items():
        rates = [share * bend for share in study.curve]
        values = [run.normalized_latency_s for run in study.curve.values()]
        panel.plot(rates, values, color=COLOURS[policy], marker=".", label=policy, linewidth=1.3)
    panel.set_yscale("log")
    panel.set_ylim(0.03, MOST_LATENCY_S)
    panel.set_xlabel("requests/s")
    panel.set_ylabel("s per token, mean")


def _pool(panel: Any, run: Run, span_s: tuple[float, float]) -> None:
    steps = [step for step in run.steps if span_s[0] <= step.began_s <= span_s[1]]
    at_s = [step.began_s for step in steps]
    blocks = run.num_blocks
    _fill(panel, at_s, [min(1.0, s.owned_blocks / blocks) for s in steps], "#CCCCCC", "set aside")
    _fill(panel, at_s, [step.used_blocks / blocks for step in steps], "#0072B2", "used")
    panel.set_ylim(0, 1)
    panel.set_xlabel("seconds")
    panel.set_ylabel("share of the pool")
    panel.legend(loc="lower right", fontsize=8)


def _fill(
    panel: Any, at_s: Sequence[float], shares: Sequence[float], colour: str, label: str
) -> None:
    panel.fill_between(at_s, shares, step="post", color=colour, linewidth=0, label=label)
