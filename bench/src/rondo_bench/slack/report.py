"""The table of rondo-bench slack, as JSON and as Markdown."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from rondo.metrics.lifecycle import percentile

#: Of the runs without a batch, and of those beside it.
Pair = tuple[float, float]
#: The bar: online p99 TPOT beside a batch, at most so much longer.
MOST_LONGER = 0.05


@dataclass(frozen=True, slots=True)
class Row:
    """One rate; percentiles in ms, by name."""

    share: float
    rate: float
    ttft_ms: dict[str, Pair]
    tpot_ms: dict[str, Pair]
    attainment: Pair
    tokens_per_s: float
    answer_tokens_per_s: float
    lines_per_s: float
    dry: bool

    @property
    def longer(self) -> float:
        """Of the p99 TPOT; see `longer`."""
        return longer(self.tpot_ms["p99"])

    def as_json(self) -> dict[str, object]:
        """All fields, and what the bar is about."""
        met = self.longer <= MOST_LONGER
        return asdict(self) | {"p99_tpot_longer": self.longer, "bar_met": met}


def percentile_ms(without_s: Iterable[float], beside_s: Iterable[float], quantile: float) -> Pair:
    """A percentile of both sides' times, which are in seconds."""
    return (
        1e3 * percentile(sorted(without_s), quantile),
        1e3 * percentile(sorted(beside_s), quantile),
    )


def longer(times: Pair) -> float:
    """How much longer it takes beside the batch: 0.01 is one percent."""
    without, beside = times
    return beside / without - 1


def as_markdown(rows: Sequence[Row], args: argparse.Namespace, goodput: float) -> str:
    """The report; `goodput` in requests/s."""
    lines = [
        "# A batch in the slack of online traffic",
        "",
        f"`rondo-bench slack`, simulated: {args.instances} instances of {args.profile}, policy "
        f"`{args.policy}`, ShareGPT lengths online and in the batch, TTFT {args.ttft_s:g} s, TPOT "
        f"{1e3 * args.tpot_s:g} ms, {args.requests:,} online requests, {args.seeds} seeds pooled. "
        f"Goodput without a batch (99 %): {goodput:.2f} requests/s.",
        "",
        "Each cell: without → beside the batch.",
        "",
        "| online rate, of goodput | TPOT p50, ms | TPOT p99, ms | longer | bar (5 %) "
        "| TTFT p50, ms | TTFT p99, ms | within SLO | batch tokens/s | answer tokens/s | lines/s |",
        "|---:|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        met = "met" if row.longer <= MOST_LONGER else "**missed**"
        cells = [
            f"{row.rate:.2f}/s, {row.share:.0%}",
            _pair(row.tpot_ms["p50"]),
            _pair(row.tpot_ms["p99"]),
            f"{row.longer:+.1%}",
            met,
            _pair(row.ttft_ms["p50"], 0),
            _pair(row.ttft_ms["p99"], 0),
            f"{row.attainment[0]:.2%} → {row.attainment[1]:.2%}",
            f"{row.tokens_per_s:,.0f}{' (ran dry)' if row.dry else ''}",
            f"{row.answer_tokens_per_s:,.0f}",
            f"{row.lines_per_s:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_NOTES, ""])


def _pair(values: Pair, digits: int = 1) -> str:
    return f"{values[0]:,.{digits}f} → {values[1]:,.{digits}f}"


_NOTES = (
    "The whole backlog is there from the first instant; what it gets is counted until the last",
    "online request comes. *Batch tokens* are all that were computed for it, prompts and what was",
    "computed again included; *answer tokens* those of lines that were complete by then. Both are",
    "offered the same online requests at the same instants. How the slack is found:",
    "[policies.md](../policies.md).",
)
