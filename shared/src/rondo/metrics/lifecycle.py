"""Stamps of one request, on one monotonic clock, and the latencies derived from them.

    arrival --- admitted --- first token --- ... --- last token
       |<------- TTFT ----------->|<---- (tokens - 1) x TPOT ---->|

Seen from a client, TTFT is the first token's time. EcoServe also counts the wait between a
request's prefill and the start of its decode; only the coordinator sees that (`Observed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Lifecycle:
    """Stamps in seconds; None until they happen. `num_tokens` counts all tokens so far."""

    arrival_s: float
    admitted_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    num_tokens: int = 0
    gaps_s: list[float] = field(default_factory=list)
    """Time between consecutive arrivals of tokens, when `keep_gaps` was asked for."""

    def tokens(self, count: int, at_s: float, *, keep_gaps: bool = False) -> None:
        """`count` tokens arrived together."""
        if self.first_token_s is None:
            self.first_token_s = at_s
        elif keep_gaps and self.last_token_s is not None:
            self.gaps_s.append(at_s - self.last_token_s)
        self.last_token_s = at_s
        self.num_tokens += count

    @property
    def ttft_s(self) -> float | None:
        """Time to first token."""
        return None if self.first_token_s is None else self.first_token_s - self.arrival_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None below two tokens."""
        if self.first_token_s is None or self.last_token_s is None or self.num_tokens < 2:
            return None
        return (self.last_token_s - self.first_token_s) / (self.num_tokens - 1)


def percentile(values: Sequence[float], quantile: float) -> float:
    """The value at `quantile` (0..1), linear between neighbours; nan for no value."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    position = quantile * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
