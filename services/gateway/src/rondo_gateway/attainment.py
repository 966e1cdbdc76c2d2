"""Whether an answer met its objectives: one rule, by which metrics and the console count.

Judged is what ended in an answer or in a failure of the cluster. Whoever was refused, or got half
an answer, did not get it in time.
"""

from __future__ import annotations

from dataclasses import dataclass

from rondo.types import FinishReason, Slo

#: The client left.
CANCELLED = "cancelled"
#: Ends of a complete answer.
COMPLETE = (FinishReason.STOP.value, FinishReason.LENGTH.value)
#: Ends that say nothing about the objectives: the client left, or asked for what cannot be.
_NOT_JUDGED = (CANCELLED, "ApiError")


@dataclass(frozen=True, slots=True)
class Met:
    """Which of its objectives an answer met."""

    ttft: bool
    tpot: bool

    @property
    def both(self) -> bool:
        """What attainment and goodput count."""
        return self.ttft and self.tpot


def judge(outcome: str, ttft_s: float | None, tpot_s: float | None, slo: Slo) -> Met | None:
    """What an answer met; None where it is not held against its objectives.

    Args:
        outcome: a finish reason, `cancelled` or an error's class.
        ttft_s, tpot_s: as measured; None without a first token, or below two.
    """
    if outcome in _NOT_JUDGED:
        return None
    complete = outcome in COMPLETE
    return Met(
        ttft=complete and ttft_s is not None and ttft_s <= slo.ttft_s,
        tpot=complete and (tpot_s is None or tpot_s <= slo.tpot_s),
    )
