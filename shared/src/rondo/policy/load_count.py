"""What a macro-instance's scheduler saw of its load, for whoever sets the number of instances."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rondo.policy.capacity import Lengths
from rondo.policy.changes import Begun, Ended
from rondo.policy.slack import SlackTable

#: What a request that ended counts when the next one has: the last 500 or so make the mean.
FADE = 0.998
#: Means of fewer are not trusted.
LEAST_ENDED = 20


@dataclass(slots=True)
class LoadCount:
    """Sums from the beginning on: who looks at times takes differences. Times in seconds.

    num_served: requests that began to decode, with the sums of their TTFT and of its limits.
    num_refused: requests refused for load. recent: sums over requests that ended, of which each
    counts a little less than the next: how many, prompt tokens and their squares, answer tokens,
    contexts of those, and TPOT limits.
    """

    num_served: int = 0
    ttft_s: float = 0.0
    ttft_limit_s: float = 0.0
    num_refused: int = 0
    recent: tuple[float, ...] = (0.0,) * 6
    held_back: dict[str, int] = field(default_factory=dict)
    """What kept requests from instances, by admission check, each time that one was tried."""

    def began(self, begun: Begun) -> None:
        """A request's decode began."""
        self.num_served += 1
        self.ttft_s += begun.ttft_s
        self.ttft_limit_s += begun.ttft_limit_s

    def held(self, check: str) -> None:
        """An instance could not take a request."""
        self.held_back[check] = self.held_back.get(check, 0) + 1

    def ended(self, end: Ended) -> None:
        """A request is over."""
        if end.info is None or not end.tokens_out:
            return
        prompt, answer = end.info.prompt_tokens, end.tokens_out
        context = answer * (prompt + answer / 2)
        num, prompts, squares, answers, contexts, limits_s = self.recent
        self.recent = (
            FADE * num + 1.0,
            FADE * prompts + prompt,
            FADE * squares + prompt * prompt,
            FADE * answers + answer,
            FADE * contexts + context,
            FADE * limits_s + end.info.slo.tpot_s,
        )

    def lengths(self) -> tuple[Lengths, float] | None:
        """Mean lengths and TPOT limit of late; None before enough requests have ended."""
        num, prompt, squared, answer, context, tpot_s = self.recent
        if num < LEAST_ENDED:
            return None
        return Lengths(prompt / num, squared / num, answer / num, context / answer), tpot_s / num


def mean_saved_tpot_s(tables: Iterable[tuple[SlackTable, int]], at_s: float) -> float | None:
    """Mean over several tables, each at its step count; None when nothing decodes."""
    total_s, num = 0.0, 0
    for table, steps in tables:
        if count := len(table):
            total_s += count * table.mean_s(steps, at_s)
            num += count
    return total_s / num if num else None
