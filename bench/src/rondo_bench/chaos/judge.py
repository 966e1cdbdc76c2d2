"""Compares what clients got under faults with what they must get."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rondo.metrics.lifecycle import percentile
from rondo_bench.chaos.asks import Answer
from rondo_bench.chaos.faults import SEEN_BY_CLIENTS, Injected
from rondo_bench.chaos.load import Ending, Outcome

#: Admission is looked at for so long after a fault, or until the next one of the same kind.
GAP_WINDOW_S = 10.0
#: What must not be, whatever was injected.
FORBIDDEN = ("hung", "lost_tokens", "duplicated_tokens", "mismatched_texts", "bad_endings")
#: An error that no fault excuses: somebody did not expect what happened.
INTERNAL = "500 internal_error"


def judge(
    expected: Mapping[str, Answer], outcomes: Sequence[Outcome], injected: Sequence[Injected]
) -> dict[str, Any]:
    """The report of one phase.

    `mismatched_texts` counts completed answers with another text or finish reason than without
    faults, and unfinished ones that are not the beginning of it. Gaps in admission are between
    first tokens, of all clients together.
    """
    endings = Counter(one.ending for one in outcomes)
    completed = [one for one in outcomes if one.ending is Ending.COMPLETED]
    missing = [expected[one.ask.key].num_tokens - one.answer.num_tokens for one in completed]
    firsts = sorted(one.first_token_s for one in outcomes if one.first_token_s)
    after = gaps_after(injected, firsts)
    return {
        "requests": len(outcomes),
        **{ending.value: endings[ending] for ending in Ending},
        "lost_tokens": sum(max(0, number) for number in missing),
        "duplicated_tokens": sum(max(0, -number) for number in missing),
        "mismatched_texts": sum(_differs(one, expected[one.ask.key]) for one in outcomes),
        "bad_endings": sum(bool(one.flaw) for one in outcomes),
        "faults": dict(sorted(Counter(one.kind for one in injected).items())),
        "longest_admission_gap_s": _longest(firsts),
        "admission_gaps_after_faults_s": after,
        "refused_connections": sum(one.refused for one in outcomes),
        "tokens": sum(one.answer.num_tokens for one in outcomes),
        **_percentiles("answer_s", [one.ended_s - one.began_s for one in completed]),
        **_percentiles("inter_token_s", [gap_s for one in outcomes for gap_s in one.gaps_s]),
        "errors": dict(Counter(one.error for one in outcomes if one.error).most_common(5)),
        "flaws": dict(Counter(one.flaw for one in outcomes if one.flaw).most_common(5)),
    }


def passed(report: Mapping[str, Any]) -> bool:
    """Whether nothing forbidden happened, and clients saw no fault but the end of a gateway."""
    if any(report[name] for name in FORBIDDEN) or INTERNAL in report["errors"]:
        return False
    seen = report["broken_connections"] + report["typed_errors"]
    return not seen or any(kind in report["faults"] for kind in SEEN_BY_CLIENTS)


def gaps_after(injected: Sequence[Injected], firsts: Sequence[float]) -> dict[str, list[float]]:
    """For each fault, by kind, the longest time without a first token that follows it, in s.

    A fault after which nobody got a first token any more, because nobody asked, is left out.

    Args:
        firsts: instants of first tokens, in ascending order.
    """
    gaps: dict[str, list[float]] = {}
    ends = _window_ends(injected)
    for fault, end_s in zip(injected, ends, strict=True):
        begin = bisect_left(firsts, fault.at_s)
        inside = firsts[begin : bisect_left(firsts, end_s) + 1]
        if inside:
            gaps.setdefault(fault.kind, []).append(_longest([fault.at_s, *inside]))
    return dict(sorted(gaps.items()))


def _window_ends(injected: Sequence[Injected]) -> list[float]:
    """Until when a gap is put down to each fault."""
    ends = []
    for index, fault in enumerate(injected):
        later = (one.at_s for one in injected[index + 1 :] if one.kind == fault.kind)
        ends.append(min(next(later, fault.at_s + GAP_WINDOW_S), fault.at_s + GAP_WINDOW_S))
    return ends


def _differs(outcome: Outcome, expected: Answer) -> bool:
    if outcome.ending is Ending.COMPLETED:
        got = outcome.answer
        return got.texts != expected.texts or got.finishes != expected.finishes
    pairs = zip(outcome.texts, expected.texts, strict=True)
    return not all(whole.startswith(part) for part, whole in pairs)


def _longest(firsts: Sequence[float]) -> float:
    return round(max((b - a for a, b in pairwise(firsts)), default=0.0), 3)


def _percentiles(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """p50, p99 and the largest; None where there is no value."""
    if not values:
        return {f"{name}_{which}": None for which in ("p50", "p99", "max")}
    return {
        f"{name}_p50": round(percentile(values, 0.5), 4),
        f"{name}_p99": round(percentile(values, 0.99), 4),
        f"{name}_max": round(max(values), 4),
    }
