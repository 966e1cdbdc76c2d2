"""What an instance's report changed in a scheduler's belief."""

from __future__ import annotations

from dataclasses import dataclass, field

from rondo.types import RequestInfo, StepStat


@dataclass(slots=True)
class Begun:
    """A request whose decode began, for comparing predictions."""

    request_id: str
    ttft_s: float
    ttft_limit_s: float


@dataclass(slots=True)
class Ended:
    """A request that finished; `tpot_s` is None where it had a single token, `info` where it was
    not known to decode."""

    request_id: str
    tokens_out: int
    info: RequestInfo | None
    tpot_s: float | None = None


@dataclass(slots=True)
class Changes:
    """What a report changed; `gone` are requests that a full report does not name any more."""

    prefilled: list[str] = field(default_factory=list)
    begun: list[Begun] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


def spent_since(base_step: int, decode_steps: int, steps: tuple[StepStat, ...]) -> float:
    """Seconds from the start of the decode step after the `base_step`-th to the report's end."""
    left, spent_s = decode_steps - base_step, 0.0
    for step in reversed(steps):
        if left <= 0:
            break
        spent_s += step.duration_s
        if step.num_decodes:
            left -= 1
    return spent_s
