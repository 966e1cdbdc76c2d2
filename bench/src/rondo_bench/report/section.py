"""A section of the report: what it shows, plots, tables, and what made the data."""

from __future__ import annotations

from dataclasses import dataclass, field

from rondo_bench.report.plots import Plot
from rondo_bench.report.tables import Table


@dataclass(slots=True)
class Section:
    """`missing` says why there is nothing but a title; `source` where the numbers are from."""

    key: str
    title: str
    text: list[str] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    source: str = ""
    missing: str = ""


#: Axis of every goodput.
RATE_LABEL = "goodput, requests/s"

#: Title of each experiment's section.
TITLES = {
    "grid": "Goodput: models, data sets, GPUs",
    "curves": "Attainment over rate",
    "slo": "Tighter objectives",
    "bursts": "Bursts",
    "scale": "More instances",
    "ablations": "Parts of the policy exchanged",
    "lengths": "Instances specialised by answer length",
    "instances": "Instances that plan KV, where it is tight",
    "beyond": "Beyond the paper",
    "mitosis": "Scaling by mitosis",
    "parity": "Simulator against live cluster",
    "speed": "Speed of policy and simulator",
}
