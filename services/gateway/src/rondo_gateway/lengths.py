"""How long answers tend to be, learned from those that ended by themselves."""

from __future__ import annotations

#: What is assumed before anything was learned.
FIRST_GUESS = 256.0
#: Weight of the newest answer in the running mean.
WEIGHT = 0.05
#: Predictions are this much above the mean: a KV reservation that is short costs more.
MARGIN = 1.2


class OutputLengths:
    """Running mean of answer lengths in tokens, for each model."""

    def __init__(self) -> None:
        self._mean: dict[str, float] = {}

    def observe(self, model: str, num_tokens: int) -> None:
        """An answer ended by itself after `num_tokens`."""
        mean = self._mean.get(model, float(num_tokens))
        self._mean[model] = mean + WEIGHT * (num_tokens - mean)

    def predict(self, model: str, max_tokens: int, *, exact: bool) -> int:
        """Expected tokens of a new answer; `exact` when it cannot end before its limit."""
        if exact:
            return max_tokens
        return max(1, min(max_tokens, round(self._mean.get(model, FIRST_GUESS) * MARGIN)))
