"""Outcomes as figures: the simulator's summary, and what only a client sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from rondo.metrics.lifecycle import percentile
from rondo.types import Slo
from rondo_bench.load.outcomes import Ending, Outcome
from rondo_bench.sim.records import RequestRecord, RunRecord
from rondo_bench.sim.summary import Spread, Summary, summarize

_QUANTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}


class ClientSummary(Summary):
    """One run of the load client: `Summary` with what a client sees, and more.

    TTFT ends with the first token, since a client does not see when a request's decode begins;
    there are no instances, phases or preemptions to see either. `rejected` are refusals (429 and
    503), `lost` all other failures by `errors`, `unfinished` what a given-up run left.
    `gap_s`: between events with text. `late_s`: how late requests left, the client's own share.
    """

    gap_s: Spread
    e2e_s: Spread
    late_s: Spread
    output_tokens: int
    tokens_per_s: float | None
    errors: dict[str, int]


def summarize_outcomes(outcomes: Sequence[Outcome], slo: Slo, seed: int) -> ClientSummary:
    """The figures of a run."""
    duration_s = max((one.ended_s for one in outcomes), default=0.0)
    records = [_record(one, slo) for one in outcomes]
    tokens = sum(one.num_tokens for one in outcomes)
    failed = Counter(one.ending.value for one in outcomes if _is_lost(one))
    done = [one for one in outcomes if one.completed]
    return ClientSummary(
        **summarize(RunRecord(requests=records, duration_s=duration_s, seed=seed)),
        gap_s=spread([gap_s for one in done for gap_s in one.times.gaps_s]),
        e2e_s=spread([one.e2e_s for one in done if one.e2e_s is not None]),
        late_s=spread([one.late_s for one in outcomes if one.ending is not Ending.ABORTED]),
        output_tokens=tokens,
        tokens_per_s=tokens / duration_s if duration_s > 0 else None,
        errors=dict(sorted(failed.items())),
    )


def spread(values: Sequence[float]) -> Spread:
    """Mean, percentiles and maximum; None for no values."""
    if not values:
        return Spread(mean=None, p50=None, p90=None, p95=None, p99=None, max=None)
    ordered = sorted(values)
    return Spread(
        mean=sum(ordered) / len(ordered),
        p50=percentile(ordered, _QUANTILES["p50"]),
        p90=percentile(ordered, _QUANTILES["p90"]),
        p95=percentile(ordered, _QUANTILES["p95"]),
        p99=percentile(ordered, _QUANTILES["p99"]),
        max=ordered[-1],
    )


def _is_lost(outcome: Outcome) -> bool:
    return outcome.ending.is_failure and outcome.ending is not Ending.ABORTED


def _record(outcome: Outcome, slo: Slo) -> RequestRecord:
    """In the simulator's words. An answer that its model ended early is complete all the same."""
    arrival, times = outcome.arrival, outcome.times
    if outcome.completed:
        arrival = msgspec.structs.replace(arrival, output_tokens=outcome.num_tokens)
    refused = outcome.ending is Ending.REFUSED
    return RequestRecord(
        arrival=msgspec.structs.replace(arrival, at_s=times.arrival_s),
        slo=arrival.slo or slo,
        admitted_s=times.first_token_s,
        first_token_s=times.first_token_s,
        decode_start_s=times.first_token_s,
        last_token_s=times.last_token_s,
        tokens_out=outcome.num_tokens,
        reject_reason=outcome.error[:60] if refused else None,
        rejected_s=outcome.ended_s if refused else None,
        retry_after_s=outcome.retry_after_s,
        lost=_is_lost(outcome),
    )


def as_line(outcome: Outcome) -> dict[str, Any]:
    """One request for a file of JSON lines; instants in seconds since the run began."""
    return {
        "request_id": outcome.arrival.request_id,
        "prompt_tokens": outcome.arrival.prompt_tokens,
        "output_tokens": outcome.num_tokens,
        "ending": outcome.ending.value,
        "status": outcome.status,
        "error": outcome.error or None,
        "retry_after_s": outcome.retry_after_s,
        "arrival_s": outcome.times.arrival_s,
        "sent_s": outcome.sent_s,
        "ended_s": outcome.ended_s,
        "ttft_s": outcome.ttft_s,
        "tpot_s": outcome.tpot_s,
        "e2e_s": outcome.e2e_s,
        "gaps_s": outcome.times.gaps_s,
    }


def as_table(summary: ClientSummary) -> str:
    """The figures for people."""
    counts = ("offered", "completed", "rejected", "lost", "unfinished")
    lines = [
        _row("requests", ", ".join(f"{summary[name]} {name}" for name in counts)),  # type: ignore[literal-required]
        _row(
            "attainment",
            f"{_percent(summary['attainment'])} of offered"
            f" (TTFT {_percent(summary['attainment_ttft'])},"
            f" TPOT {_percent(summary['attainment_tpot'])})",
        ),
        _row(
            "per second",
            f"{_number(summary['throughput_rps'], 3)} completed,"
            f" {_number(summary['goodput_rps'], 3)} within SLO,"
            f" {_number(summary['tokens_per_s'], 1)} tokens out",
        ),
        _row("run", f"{summary['duration_s']:.1f} s, seed {summary['seed']}"),
        _row("", "".join(f"{name:>10}" for name in Spread.__annotations__)),
    ]
    for name in ("ttft_s", "tpot_s", "gap_s", "e2e_s", "late_s"):
        shown: Spread = summary[name]
        cells = (shown[column] for column in Spread.__annotations__)  # type: ignore[literal-required]
        lines.append(_row(name, "".join(f"{_number(value, 4):>10}" for value in cells)))
    for title, named in (("error", summary["errors"]), ("refused", summary["reject_reasons"])):
        lines += [_row(title, f"{count:>9}  {what}") for what, count in named.items()]
    return "\n".join(lines)


def _row(label: str, text: str) -> str:
    return f"{label:<12}{text}".rstrip()


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
