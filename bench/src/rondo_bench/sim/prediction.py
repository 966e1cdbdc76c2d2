"""What schedulers are told about the length of an answer before it is known."""

from __future__ import annotations

from rondo.errors import ConfigError
from rondo_bench.sim.records import Arrival

#: A running mean is told with so much on top, for reservations should rather be long.
MEAN_MARGIN = 1.2
#: What is told before the first answer ended.
FIRST_GUESS_TOKENS = 256


class Predictor:
    """Predicts from the arrival, or from the answers that ended so far."""

    def __init__(self, kind: str) -> None:
        if kind not in ("mean", "file", "exact"):
            raise ConfigError("--prediction", f"{kind!r} is not one of: mean, file, exact")
        self._kind = kind
        self._num_ended = self._sum_tokens = 0

    def ended(self, tokens_out: int) -> None:
        """An answer ended."""
        self._num_ended += 1
        self._sum_tokens += tokens_out

    def predict(self, arrival: Arrival) -> int:
        """Tokens of the answer, at least 1.

        Raises:
            ConfigError: `file` was asked for and the length file has no predictions.
        """
        if self._kind == "exact":
            return arrival.output_tokens
        if self._kind == "file":
            if arrival.predicted_tokens is None:
                raise ConfigError("--prediction", "the lengths file has no column of predictions")
            return max(1, arrival.predicted_tokens)
        if not self._num_ended:
            return FIRST_GUESS_TOKENS
        return max(1, round(MEAN_MARGIN * self._sum_tokens / self._num_ended))
