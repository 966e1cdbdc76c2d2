"""Predicted time of prompts that are prefilled one after another, packed into steps."""

from __future__ import annotations

from rondo.types import LatencyModel


class Forecast:
    """Prompts in order, packed into steps of at most `step_tokens`; each costs O(its steps).

    Args:
        num_riders: sequences that decode in every step, with `rider_tokens` of context together.
    """

    __slots__ = (
        "_closed_s",
        "_cost_s",
        "_deferred",
        "_latency",
        "_num_riders",
        "_pairs",
        "_rider_tokens",
        "_step_tokens",
        "_tokens",
    )

    def __init__(
        self, latency: LatencyModel, step_tokens: int, num_riders: int = 0, rider_tokens: int = 0
    ) -> None:
        self._latency = latency
        self._step_tokens = step_tokens
        self._num_riders, self._rider_tokens = num_riders, rider_tokens
        self._closed_s = 0.0
        self._tokens = self._pairs = 0  # of the last step, which has room left
        self._deferred: list[int] = []
        self._cost_s: float | None = None  # of what is added

    def add(self, prompt_tokens: int, cached_tokens: int = 0) -> None:
        """Appends a prompt of which `cached_tokens` are prefilled already."""
        self._closed_s, self._tokens, self._pairs = self._pack(prompt_tokens, cached_tokens)
        self._cost_s = None

    def defer(self, prompt_tokens: int) -> None:
        """As `add`, with the work left for when a cost is asked for.

        The latency model must not change until then.
        """
        self._deferred.append(prompt_tokens)

    def cost_s(self) -> float:
        """Seconds of all prompts added, by the latency model as it was when they were."""
        if self._deferred:
            self._add_deferred()
        if self._cost_s is None:
            self._cost_s = self._total_s(self._closed_s, self._tokens, self._pairs)
        return self._cost_s

    def cost_with_s(self, prompt_tokens: int) -> float:
        """Seconds of all prompts and one more, which is not added."""
        if self._deferred:
            self._add_deferred()
        tokens = self._tokens + prompt_tokens
        if tokens <= self._step_tokens:  # as most often
            pairs = self._pairs + prompt_tokens * prompt_tokens
            return self._total_s(self._closed_s, tokens, pairs)
        closed_s, tokens, pairs = self._pack(prompt_tokens, 0)
        return self._total_s(closed_s, tokens, pairs)

    def _add_deferred(self) -> None:
        deferred, self._deferred = self._deferred, []
        for prompt_tokens in deferred:
            self.add(prompt_tokens)

    def _pack(self, prompt_tokens: int, cached_tokens: int) -> tuple[float, int, int]:
        closed_s, tokens, pairs = self._closed_s, self._tokens, self._pairs
        context, left = cached_tokens, prompt_tokens - cached_tokens
        step_tokens = self._step_tokens
        while left > 0:
            room = step_tokens - tokens
            count = left if left < room else room
            tokens += count
            pairs += count * (count + 2 * context)
            context += count
            left -= count
            if tokens >= step_tokens:
                riders, context_tokens = self._num_riders, self._rider_tokens
                closed_s += self._latency.step_s(tokens, pairs, riders, context_tokens)
                tokens = pairs = 0
        return closed_s, tokens, pairs

    def _total_s(self, closed_s: float, tokens: int, pairs: int) -> float:
        if not tokens:
            return closed_s
        riders, context_tokens = self._num_riders, self._rider_tokens
        return closed_s + self._latency.step_s(tokens, pairs, riders, context_tokens)
