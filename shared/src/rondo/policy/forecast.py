"""Predicted time of prompts that are prefilled one after another, packed into steps."""

from __future__ import annotations

from dataclasses import dataclass

from rondo.types import LatencyModel


@dataclass(frozen=True, slots=True)
class Cost:
    """Predicted seconds of a stretch of prefill, and the steps it takes."""

    duration_s: float
    num_steps: int

    def spends_s(self, tpot_s: float) -> float:
        """Saved TPOT that it takes from requests which decode in none of its steps (`tpot_s` 0)
        or in each of them."""
        return max(0.0, self.duration_s - self.num_steps * tpot_s)


class Forecast:
    """Prompts in order, packed into steps of at most `step_tokens`; each costs O(its steps).

    Args:
        num_riders: sequences that decode in every step, with `rider_tokens` of context together.
    """

    __slots__ = (
        "_closed_s",
        "_closed_steps",
        "_latency",
        "_pairs",
        "_riders",
        "_step_tokens",
        "_tokens",
    )

    def __init__(
        self, latency: LatencyModel, step_tokens: int, num_riders: int = 0, rider_tokens: int = 0
    ) -> None:
        self._latency = latency
        self._step_tokens = step_tokens
        self._riders = (num_riders, rider_tokens)
        self._closed_s = 0.0
        self._closed_steps = 0
        self._tokens = self._pairs = 0  # of the last step, which has room left

    def add(self, prompt_tokens: int, cached_tokens: int = 0) -> None:
        """Appends a prompt of which `cached_tokens` are prefilled already."""
        packed = self._pack(prompt_tokens, cached_tokens)
        self._closed_s, self._closed_steps, self._tokens, self._pairs = packed

    def cost(self) -> Cost:
        """Of all prompts added."""
        return self._total(self._closed_s, self._closed_steps, self._tokens, self._pairs)

    def cost_with(self, prompt_tokens: int, cached_tokens: int = 0) -> Cost:
        """Of all prompts and one more, which is not added."""
        return self._total(*self._pack(prompt_tokens, cached_tokens))

    def _pack(self, prompt_tokens: int, cached_tokens: int) -> tuple[float, int, int, int]:
        closed_s, closed_steps = self._closed_s, self._closed_steps
        tokens, pairs = self._tokens, self._pairs
        context, left = cached_tokens, prompt_tokens - cached_tokens
        while left > 0:
            count = min(left, self._step_tokens - tokens)
            tokens += count
            pairs += count * (count + 2 * context)
            context += count
            left -= count
            if tokens >= self._step_tokens:
                closed_s += self._latency.step_s(tokens, pairs, *self._riders)
                closed_steps += 1
                tokens = pairs = 0
        return closed_s, closed_steps, tokens, pairs

    def _total(self, closed_s: float, closed_steps: int, tokens: int, pairs: int) -> Cost:
        if not tokens:
            return Cost(closed_s, closed_steps)
        return Cost(closed_s + self._latency.step_s(tokens, pairs, *self._riders), closed_steps + 1)
