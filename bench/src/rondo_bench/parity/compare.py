"""Figures of both sides, and how far they are apart.

Both sides are measured at the same two instants: TTFT is the first token's time after the arrival,
TPOT the time between first and last token over the tokens after the first. That is a client's view;
EcoServe's stricter TTFT, until decode begins, cannot be seen from there. Attainment is the share of
the offered requests that complete within both objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rondo.metrics.lifecycle import percentile
from rondo.types import Slo


@dataclass(frozen=True, slots=True)
class Served:
    """What became of a request, in seconds; `tpot_s` is None for an answer of one token."""

    ttft_s: float | None
    tpot_s: float | None

    def meets(self, slo: Slo) -> bool:
        """Completed within both objectives."""
        return (
            self.ttft_s is not None
            and self.ttft_s <= slo.ttft_s
            and (self.tpot_s is None or self.tpot_s <= slo.tpot_s)
        )


#: A request that was refused or failed.
MISSED = Served(None, None)


def served(at_s: float, first_s: float, last_s: float, num_tokens: int) -> Served:
    """A completed request by its instants."""
    tpot_s = (last_s - first_s) / (num_tokens - 1) if num_tokens > 1 else None
    return Served(first_s - at_s, tpot_s)


def figures(requests: Sequence[Served], slo: Slo) -> dict[str, float]:
    """Percentiles in seconds, over the completed requests, and shares."""
    ttft = [one.ttft_s for one in requests if one.ttft_s is not None]
    tpot = [one.tpot_s for one in requests if one.tpot_s is not None]
    return {
        "ttft_p50_s": percentile(ttft, 0.5),
        "ttft_p90_s": percentile(ttft, 0.9),
        "tpot_p50_s": percentile(tpot, 0.5),
        "tpot_p90_s": percentile(tpot, 0.9),
        "attainment": sum(one.meets(slo) for one in requests) / len(requests),
    }


def error_of(metric: str, live: float, simulated: float) -> float:
    """(live - simulated) / simulated; of attainment, the difference."""
    if metric == "attainment":
        return live - simulated
    return (live - simulated) / simulated
