"""How many tokens a request is expected to bring yet (TD-Pipe, section 3.2).

The predicted length is on the request; the policy's part is what it makes of it. Without the
prediction every answer is expected to be as long as the mean of those that ended.
"""

from __future__ import annotations

from rondo.policy.plan import Job


class RemainingTokens:
    """Expected tokens to come. `predict`: by each request's own prediction; else by the mean."""

    def __init__(self, *, predict: bool, first_guess: int) -> None:
        self._predict = predict
        self._guess = first_guess
        self._num_ended = self._sum_tokens = 0

    def ended(self, tokens_out: int) -> None:
        """An answer ended by itself after so many tokens."""
        self._num_ended += 1
        self._sum_tokens += tokens_out

    def expect(self, job: Job, tokens_out: int) -> int:
        """Tokens still to come of a job that has `tokens_out`; 0 once it has outgrown them."""
        return max(0, self._length(job) - tokens_out)

    def _length(self, job: Job) -> int:
        if self._predict:
            return job.predicted_tokens
        return round(self._sum_tokens / self._num_ended) if self._num_ended else self._guess
