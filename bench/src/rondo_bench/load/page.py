"""A run of the load client as one HTML page: its figures, and plots of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined

from rondo_bench.load.figures import ClientSummary, as_table
from rondo_bench.load.outcomes import Outcome
from rondo_bench.report.plots import Plot, draw
from rondo_bench.report.style import INK, css_variables

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Load on {{ url }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --page: #ffffff;
{%- for name, shades in colours.items() %} {{ name }}: {{ shades.light }};{% endfor %} }
@media (prefers-color-scheme: dark) { :root { --page: #161616;
{%- for name, shades in colours.items() %} {{ name }}: {{ shades.dark }};{% endfor %} } }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
pre, figure { overflow-x: auto; } figure svg { width: 100%; height: auto; }
</style></head><body>
<h1>Load on {{ url }}</h1>
<pre>{{ table }}</pre>
{% for plot in plots %}<figure>{{ plot.svg | safe }}<figcaption>{{ plot.caption }}</figcaption>
</figure>
{% endfor %}</body></html>
"""


def render_run(outcomes: Sequence[Outcome], summary: ClientSummary, url: str) -> str:
    """The page as text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(_PAGE).render(
        url=url, table=as_table(summary), plots=_plots(outcomes), colours=css_variables()
    )


def _plots(outcomes: Sequence[Outcome]) -> list[Plot]:
    done = [one for one in outcomes if one.completed]
    if not done:
        return []

    def shares(axes: Any) -> None:
        panels = (
            ("TTFT, s", [one.ttft_s for one in done if one.ttft_s is not None]),
            ("TPOT, s", [one.tpot_s for one in done if one.tpot_s is not None]),
            ("between tokens, s", [gap_s for one in done for gap_s in one.times.gaps_s]),
        )
        for panel, (title, values) in zip(axes.flat, panels, strict=True):
            ordered = sorted(values)
            share = [(i + 1) / len(ordered) for i in range(len(ordered))]
            panel.plot(ordered, share, color=INK.light)
            panel.set_xlabel(title)
            panel.set_ylim(0, 1.02)

    def over_time(axes: Any) -> None:
        first, second = axes.flat
        at_s = [one.times.arrival_s for one in done]
        first.plot(at_s, [one.ttft_s for one in done], ".", color=INK.light)
        first.set_ylabel("TTFT, s")
        ended = Counter(int(one.ended_s) for one in done)
        seconds = range(max(ended) + 1)
        second.step(seconds, [ended[second] for second in seconds], color=INK.light)
        second.set_ylabel("completed a second")
        second.set_xlabel("seconds since the run began")

    return [
        draw("shares", "Share of requests (or gaps) within a time", (1, 3), (3.2, 2.4), shares),
        draw("time", "Over time", (2, 1), (9.0, 2.0), over_time, share_x=True),
    ]
