"""The Markdown page of the simulated pipeline: tables from the runs, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rondo_bench.marked_page import put_tables
from rondo_bench.tdpipe.compare import ModelStudy
from rondo_bench.tdpipe.simulated import HYBRID, ORDERED, Row

TITLES = {"llama-2-13b": "Llama-2-13B", "qwen2.5-32b": "Qwen2.5-32B"}


def run_table(rows: Sequence[Row], base: Row) -> list[str]:
    """A line for each run; the last column is its speed over that of `base`."""
    lines = [
        "| run | tokens/s | bubbles | phase switches | recomputed | steps | drain | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        each = row.figures
        lines.append(
            f"| {row.label} | {each.tokens_per_s:.0f} | {each.bubble_share:.1%} "
            f"| {each.phase_switches} | {each.recomputed} | {row.num_steps} "
            f"| {row.drain_s:.0f} of {row.duration_s:.0f} s "
            f"| {each.tokens_per_s / base.figures.tokens_per_s:.3f} |"
        )
    return lines


def paper_table(studies: dict[str, ModelStudy]) -> list[str]:
    """The paper's headline ratios beside ours."""
    lines = ["| ratio | paper (best of its cases) |", "|---|---|"]
    for name in studies:
        lines[0] += f" ours, {TITLES[name]} |"
        lines[1] += "---|"
    cases = (
        ("TD-Pipe / pipeline, separate batches", "up to 2.73", "pp-separate"),
        ("TD-Pipe / pipeline, hybrid batches", "within the 2.73", HYBRID),
        ("TD-Pipe / tensor parallel, separate batches", "up to 1.91", "tp-separate"),
        ("TD-Pipe / tensor parallel, hybrid batches", "within the 1.91", "tp-hybrid"),
    )
    for title, paper, rival in cases:
        cells = [_ratio(study, "tdpipe", rival) for study in studies.values()]
        lines.append(f"| {title} | {paper} | {' | '.join(cells)} |")
    for title, rival in (("separate", "pp-separate"), ("best hybrid", HYBRID)):
        cells = [_ratio(study, "tdpipe-fused", rival) for study in studies.values()]
        lines.append(
            f"| tdpipe-fused / pipeline, {title} | not in the paper | {' | '.join(cells)} |"
        )
    return lines


def _ratio(study: ModelStudy, ours: str, rival: str) -> str:
    row = study.rows.get(rival) or study.tensor_parallel[rival]
    ratio = study.rows[ours].figures.tokens_per_s / row.figures.tokens_per_s
    return f"{ratio:.3f}"


def model_section(name: str, study: ModelStudy) -> list[str]:
    """Everything of one model."""
    separate, hybrid = study.rows["pp-separate"], study.rows[HYBRID]
    lines = [f"### {TITLES[name]}", ""]
    lines += [f"No schedule can pass {study.best_possible:.0f} tokens/s (`bound.py`)."]
    lines += ["Ratio: over the best `pp-separate`.", ""]
    compared = [study.paper, study.whole, study.rows["tdpipe-fused"], separate, hybrid]
    compared += study.tensor_parallel.values()
    lines += run_table(compared, separate)
    lines += ["", "`pp-hybrid` by its budget; ratio: over the best.", ""]
    lines += run_table(study.hybrids, hybrid)
    if study.parts:
        title = "The parts of `tdpipe`, the paper's and ours, one taken away at a time"
        lines += ["", f"{title}; ratio: over the whole.", ""]
        lines += run_table([study.whole, *study.parts], study.whole)
    if study.fused_parts:
        whole = study.rows["tdpipe-fused"]
        lines += ["", "The parts of `tdpipe-fused`; ratio: over the whole.", ""]
        lines += run_table([whole, *study.fused_parts], whole)
    if study.ordered:
        title = "The rivals with their best settings, given our order"
        lines += ["", f"{title}; ratio: over the best `pp-separate`.", ""]
        lines += run_table(study.ordered, separate)
    return [*lines, *_draw_table(study), *_error_table(study), ""]


def _draw_table(study: ModelStudy) -> list[str]:
    """The bars' ratios on other jobs."""
    if not study.draws:
        return []
    lines = ["", "Other draws from the file, every rival tuned to each; tokens/s.", ""]
    lines += ["| draw | pp-separate | pp-hybrid | tdpipe | over separate "]
    lines[-1] += "| tdpipe-fused | over hybrid | over hybrid, same order |"
    lines += ["|---|---|---|---|---|---|---|---|"]
    for label, rows in study.draws:
        speed = {name: row.figures.tokens_per_s for name, row in rows.items()}
        plain, fused = speed["tdpipe"], speed["tdpipe-fused"]
        lines.append(
            f"| {label} | {speed['pp-separate']:.0f} | {speed[HYBRID]:.0f} "
            f"| {plain:.0f} | {plain / speed['pp-separate']:.3f} "
            f"| {fused:.0f} | {fused / speed[HYBRID]:.3f} | {fused / speed[ORDERED]:.3f} |"
        )
    return lines


def _error_table(study: ModelStudy) -> list[str]:
    if not study.errors:
        return []
    lines = ["", "Error of the predictions.", ""]
    lines += ["| predictions | tdpipe, tokens/s | recomputed | tdpipe-fused | recomputed |"]
    lines += ["|---|---|---|---|---|"]
    for label, plain, fused in study.errors:
        one, two = plain.figures, fused.figures
        lines.append(
            f"| {label} | {one.tokens_per_s:.0f} | {one.recomputed} "
            f"| {two.tokens_per_s:.0f} | {two.recomputed} |"
        )
    return lines


def write_page(path: Path, studies: dict[str, ModelStudy]) -> None:
    """Puts the tables into the page, between its two marks; what is around them stays.

    Raises:
        ConfigError: the page is not there, or has no marks.
    """
    lines = ["### The paper's figures beside ours", "", *paper_table(studies), ""]
    for name, study in studies.items():
        lines += model_section(name, study)
    put_tables(path, lines)
