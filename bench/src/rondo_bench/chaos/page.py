"""The report of a chaos run as a page of Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rondo_bench.chaos.asks import NUM_ASKS
from rondo_bench.chaos.faults import KINDS

NOTES = """\
How to read it: the same {asks} requests are asked for twice without faults, and then again and
again under faults: greedy streams, whole answers that end by themselves, two choices in a stream,
streams with a stop string, seeded streams with penalties. An answer is right when every choice has
the text and the finish reason that it has without faults, and usage counts as many tokens; an
unfinished one must be the beginning of it. Every stream must end in `[DONE]` or an error, with
nothing behind it. A request hangs when it takes more than two minutes. Gaps in admission are
between the first tokens of all clients together. Afterwards nothing may be left: all instances are
back, no request runs or waits anywhere, every KV block is free.

A connection breaks where the gateway that held it was ended: the answer was in its memory only. No
other fault may break one. Faults are given to processes by signal, to connections by a relay
between the programs and nats-server, and to the bus as bytes. Wrong messages are such as damage
makes, which do not decode, and repetitions of real ones; a forged message that decodes is beyond
what an unsigned bus can tell. A slow or stalled disk under JetStream looks to everybody like a
nats-server that hangs, so `bus-stop` covers it. Steps of the wall clock are not injected, because
nothing depends on it: every program decides by its monotonic clock alone, and messages carry
durations, not instants.
"""
#: Columns of the table of phases.
COUNTED = (
    "requests",
    "completed",
    "typed_errors",
    "broken_connections",
    "hung",
    "lost_tokens",
    "duplicated_tokens",
    "mismatched_texts",
)


def as_page(total: Mapping[str, Any], command: str) -> str:
    """The page.

    Args:
        total: see `rondo_bench.chaos.cmd.summary`.
        command: what was typed.
    """
    phases = total["phases"]
    lines = [
        "# Chaos",
        "",
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
        f"`{command}`",
        "",
        *_figures(total),
        "",
        "## By phase",
        "",
        *_table(
            "faults; s; requests; completed; typed errors; broken; hung; lost; duplicated; "
            "mismatched; between tokens p50 ms; p99 ms; longest s; whole again after s",
            [_phase_row(one) for one in phases],
        ),
        "",
        "## By kind of fault",
        "",
        *_table(
            "fault; what it is; times; admission gap after it, median s; longest s",
            _kind_rows(total),
        ),
        "",
        *_counts("How instances came and went", total["members"]),
        *_counts("Wrong messages sent", total["messages"]),
        *_counts("Errors that clients saw", total["errors"]),
        NOTES.format(asks=NUM_ASKS).rstrip(),
    ]
    return "\n".join(lines) + "\n"


def _figures(total: Mapping[str, Any]) -> list[str]:
    names = {
        "requests": "requests",
        "completed": "completed",
        "typed_errors": "ended in a typed error",
        "broken_connections": "connections broken by the end of their gateway",
        "hung": "hung",
        "lost_tokens": "tokens lost",
        "duplicated_tokens": "tokens twice",
        "mismatched_texts": "texts that differ",
        "bad_endings": "streams with a wrong ending",
        "tokens": "tokens in all",
    }
    rows = [[label, f"{total[name]:,}"] for name, label in names.items()]
    rows.append(["faults", f"{sum(total['faults'].values()):,}"])
    rows.append(["left behind", total["left_behind"] or "nothing"])
    rows.append(["verdict", "**passed**" if total["passed"] else "**failed**"])
    return _table("figure; value", rows)


def _phase_row(one: Mapping[str, Any]) -> list[str]:
    injected = ", ".join(f"{number} x {kind}" for kind, number in one["faults"].items())
    return [
        injected or one["phase"],
        f"{one['seconds']:.0f}",
        *(str(one[name]) for name in COUNTED),
        *(_number(one[f"inter_token_s_{which}"], 1e3) for which in ("p50", "p99")),
        _number(one["inter_token_s_max"], 1),
        f"{one['whole_after_s']:.1f}",
    ]


def _kind_rows(total: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for kind, gaps_s in total["admission_gaps_after_faults_s"].items():
        rows.append(
            [
                f"`{kind}`",
                KINDS[kind].meaning,
                str(len(gaps_s)),
                f"{median(gaps_s):.2f}",
                f"{max(gaps_s):.2f}",
            ]
        )
    return rows


def _counts(title: str, counts: Mapping[str, int]) -> list[str]:
    if not counts:
        return []
    listed = ", ".join(f"{name} {number}" for name, number in counts.items())
    return [f"{title}: {listed}.", ""]


def _table(head: str, rows: Sequence[Sequence[str]]) -> list[str]:
    titles = head.split("; ")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _number(value: float | None, factor: float) -> str:
    return "-" if value is None else f"{value * factor:.1f}"
