"""The Markdown page of the simulated instance: tables from the runs, and the bars they answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rondo_bench.econoserve.simulated import RunFigures
from rondo_bench.econoserve.study import BASE, BEND, OVERLOAD, SHARES, Part, PolicyStudy
from rondo_bench.marked_page import put_tables

TITLES = {"sharegpt": "ShareGPT", "alpaca": "Alpaca", "long": "Long answers (ShareGPT x 3)"}
#: What the project asks of the simulated instance.
OVER_BASE, OVER_SHORTEST, PREEMPTED, PIPELINING = 1.5, 1.05, 0.05, 1.2

Studies = Mapping[str, PolicyStudy]


@dataclass(slots=True)
class PageData:
    """All that the page shows; `workloads` by name, in the order of the page."""

    level_s: float
    runs: str = ""
    """How many runs of how many requests."""
    workloads: dict[str, Studies] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    predictions: dict[str, list[Part]] = field(default_factory=dict)
    chart: str | None = None
    """Name of the SVG file beside the page."""
    real: list[str] = field(default_factory=list)
    """The section about real runs."""


def write_page(path: Path, data: PageData) -> None:
    """Puts the tables into the page, between its two marks; what is around them stays.

    Raises:
        ConfigError: the page is not there, or has no marks.
    """
    put_tables(path, page_lines(data))


def page_lines(data: PageData) -> list[str]:
    """Everything between the marks."""
    lines = [
        data.runs,
        "",
        "### The bars",
        "",
        *bars_table(data),
        "",
        "### The paper's figures beside ours",
        "",
    ]
    lines += [*paper_table(data), ""]
    if data.chart:
        lines += [f"![Latency over rate, and the KV pool over time]({data.chart})", ""]
    for name, studies in data.workloads.items():
        lines += [f"### {TITLES[name]}", "", *policy_table(studies), ""]
        for title, figure, form in _CURVES:
            lines += [title, "", *curve_table(studies, data.level_s, figure, form), ""]
    if data.parts:
        lines += ["### The parts of `econoserve`, ShareGPT", "", *parts_table(data.parts), ""]
    if data.predictions:
        lines += ["### Predictions, ShareGPT", "", *predictions_table(data.predictions), ""]
    if data.real:
        lines += ["## Real runs", "", *data.real, ""]
    return lines


def bars_table(data: PageData) -> list[str]:
    """What was asked for, and what each workload gives."""
    names = list(data.workloads)
    lines = ["| what | bar | " + " | ".join(TITLES[name] for name in names) + " |"]
    lines.append("|---|---|" + "---|" * len(names))

    def row(what: str, bar: str, value: Callable[[Studies], str]) -> None:
        lines.append(
            f"| {what} | {bar} | " + " | ".join(map(value, data.workloads.values())) + " |"
        )

    level_s = data.level_s

    def over(rival: str) -> Callable[[Studies], str]:
        return lambda each: f"{each['econoserve'].rates[level_s] / each[rival].rates[level_s]:.2f}"

    def saturated(one: str, other: str) -> Callable[[Studies], str]:
        return lambda each: (
            f"{each[one].saturated.requests_per_s / each[other].saturated.requests_per_s:.2f}"
        )

    at = f"rate at {level_s:g} s/token over"
    row(f"{at} `block-growth`", f">= {OVER_BASE}", over(BASE))
    row(f"{at} `shortest-first`", f">= {OVER_SHORTEST}", over("shortest-first"))
    row(
        f"preempted requests, {OVERLOAD:g} times that rate of `block-growth`",
        f"<= {PREEMPTED:.0%}",
        lambda each: f"{each['econoserve'].curve[OVERLOAD].preempted_share:.1%}",
    )
    row("saturated, over `exact`", f">= {PIPELINING}", saturated("econoserve", "exact"))
    row("saturated `exact` over `block-growth`", "about 0.8", saturated("exact", BASE))
    row("saturated, over `block-growth`", "", saturated("econoserve", BASE))
    return lines


def paper_table(data: PageData) -> list[str]:
    """The paper's headlines against ours, over the better of first come, first served."""
    names = list(data.workloads)
    lines = ["| what | paper | " + " | ".join(TITLES[name] for name in names) + " |"]
    lines.append("|---|---|" + "---|" * len(names))
    rates: list[str] = []
    times: list[str] = []
    met: list[str] = []
    for each in data.workloads.values():
        ratios = [
            each["econoserve"].rates[level] / each[BASE].rates[level]
            for level in sorted(each[BASE].rates)
            if each[BASE].rates[level]
        ]
        rates.append(f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "-")
        pairs = [(each["econoserve"].curve[s], each[BASE].curve[s]) for s in each[BASE].curve]
        times.append(f"{min(a.completion_s / b.completion_s - 1 for a, b in pairs):+.0%}")
        met.append(
            f"{max(a.slo_satisfaction - b.slo_satisfaction for a, b in pairs) * 100:+.0f} points"
        )
    lines.append("| rate at equal latency, by level | up to 4x | " + " | ".join(rates) + " |")
    lines.append("| mean completion time, best rate | -91 % | " + " | ".join(times) + " |")
    lines.append("| SLO satisfaction, best rate | +91 % | " + " | ".join(met) + " |")
    return lines


def policy_table(studies: Studies) -> list[str]:
    """A line for each policy."""
    levels = sorted(studies[BASE].rates)
    lines = [
        "| policy | steps | "
        + " | ".join(f"req/s at {level:g} s" for level in levels)
        + " | saturated req/s | tokens/s | KV used | set aside | tokens a step | preempted |",
        "|---|---|" + "---|" * (len(levels) + 6),
    ]
    for policy, study in studies.items():
        full = study.saturated
        rates = " | ".join(_rate(study, level) for level in levels)
        lines.append(
            f"| {policy} | {study.setup.label} | {rates} | {full.requests_per_s:.2f} "
            f"| {full.tokens_per_s:.0f} | {full.kv_used_share:.0%} | {full.kv_owned_share:.0%} "
            f"| {full.forward_tokens:.0f} | {study.curve[OVERLOAD].preempted_share:.1%} |"
        )
    return lines


def _rate(study: PolicyStudy, level_s: float) -> str:
    rate = study.rates[level_s]
    return f"> {rate:.2f}" if rate >= study.most_rate else f"{rate:.2f}"


def curve_table(
    studies: Studies, level_s: float, figure: Callable[[RunFigures], float], form: str
) -> list[str]:
    """One figure of every policy over the offered rate."""
    bend = studies[BASE].rates[level_s]
    lines = [
        "| requests/s | " + " | ".join(f"{share * bend:.2f}" for share in SHARES) + " |",
        "|---|" + "---|" * len(SHARES),
    ]
    for policy, study in studies.items():
        values = " | ".join(format(figure(study.curve[share]), form) for share in SHARES)
        lines.append(f"| {policy} | {values} |")
    return lines


_CURVES: tuple[tuple[str, Callable[[RunFigures], float], str], ...] = (
    ("Mean normalized latency, s per token:", lambda run: run.normalized_latency_s, ".3f"),
    ("Mean completion time, s:", lambda run: run.completion_s, ".1f"),
    ("SLO satisfaction:", lambda run: run.slo_satisfaction, ".0%"),
)


def parts_table(parts: Sequence[Part]) -> list[str]:
    """The whole, and each variant."""
    lines = [
        f"| variant | s/token at {BEND:g} | at {OVERLOAD:g} | saturated req/s | KV used "
        "| preempted | longest wait, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for part in parts:
        full = part.saturated
        sat, used = (
            (f"{full.requests_per_s:.2f}", f"{full.kv_used_share:.0%}") if full else ("", "")
        )
        lines.append(
            f"| {part.label} | {part.bend.normalized_latency_s:.3f} "
            f"| {part.overload.normalized_latency_s:.3f} | {sat} | {used} "
            f"| {part.overload.preempted_share:.1%} | {part.overload.longest_wait_s:.0f} |"
        )
    return lines


def predictions_table(predictions: Mapping[str, Sequence[Part]]) -> list[str]:
    """Latency of each policy by what it is told of the answers' lengths."""
    policies = list(predictions)
    heads = [f"{policy}, {share:g}" for policy in policies for share in (BEND, OVERLOAD)]
    heads += [f"preempted, {policy}" for policy in policies]
    lines = ["| predictions | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for row in zip(*predictions.values(), strict=True):
        cells = [
            f"{run.normalized_latency_s:.3f}" for part in row for run in (part.bend, part.overload)
        ]
        cells += [f"{part.overload.preempted_share:.1%}" for part in row]
        lines.append(f"| {row[0].label} | " + " | ".join(cells) + " |")
    return lines
