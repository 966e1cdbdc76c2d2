"""The page: sections for what is there, a line for what is missing."""

from __future__ import annotations

from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined

from rondo_bench.report import sections_goodput as goodput
from rondo_bench.report import sections_run as runs
from rondo_bench.report.data import RECORD_TYPES, Results
from rondo_bench.report.section import TITLES, Section
from rondo_bench.report.sections_grid import grid_section
from rondo_bench.report.sections_instances import instances_section
from rondo_bench.report.sections_lengths import lengths_section
from rondo_bench.report.style import css_variables

_MAKERS: dict[str, Callable[[Results], Section]] = {
    "grid": grid_section,
    "curves": runs.curves_section,
    "slo": goodput.slo_section,
    "bursts": goodput.bursts_section,
    "scale": goodput.scale_section,
    "ablations": goodput.ablations_section,
    "lengths": lengths_section,
    "instances": instances_section,
    "beyond": runs.beyond_section,
    "mitosis": runs.mitosis_section,
    "parity": runs.parity_section,
    "speed": runs.speed_section,
}


def make_sections(results: Results) -> list[Section]:
    """One section an experiment, in the order of the report."""
    return [_section(name, results) for name in RECORD_TYPES]


def _section(name: str, results: Results) -> Section:
    experiment = results.experiments.get(name)
    if experiment is None:
        section = Section(name, TITLES[name], missing=f"Left out: there is no {name}.json.")
    elif not experiment.records:
        section = Section(name, TITLES[name], missing=f"Left out: {name}.json holds no record.")
    else:
        section = _MAKERS[name](results)
        seeds = ", ".join(map(str, experiment.seeds)) or "none"
        section.source = (
            f"Made by: {experiment.command} (seeds {seeds}; up to {experiment.requests} requests "
            f"a run; {experiment.machine})."
        )
    paragraphs = results.notes.get(name, "").split("\n\n")
    section.notes = [" ".join(text.split()) for text in paragraphs if text.strip()]
    return section


def render(sections: list[Section]) -> str:
    """The page as text; the same sections give the same text."""
    environment = Environment(
        loader=PackageLoader("rondo_bench.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    template = environment.get_template("report.html.j2")
    return template.render(sections=sections, colours=css_variables())
