"""How many tokens a request is taken to need still, from its prediction."""

from __future__ import annotations

from math import ceil

from rondo.policy.econoserve.order import answer_left
from rondo.policy.econoserve.settings import EconoSettings
from rondo.policy.plan import Job

#: What an answer that passed its prediction is taken to have still, as a share of what it has,
EXTRA_SHARE = 0.25
#: and at least so many tokens.
EXTRA_TOKENS = 16
#: The mean predicted answer is that of about so many prompts.
MEMORY = 256


class Needs:
    """Pads predictions and rounds ends.

    Args:
        longest_answers: take `max_tokens` instead of the prediction.
    """

    def __init__(self, settings: EconoSettings, *, longest_answers: bool) -> None:
        self._pad = settings.pad
        self._buffer = settings.buffer_steps if settings.pipelining else 0
        self._grain = settings.groups
        self._longest = longest_answers
        self._mean_answer = 0.0
        self._num_seen = 0

    def note(self, job: Job) -> None:
        """A prompt came."""
        self._num_seen = min(MEMORY, self._num_seen + 1)
        self._mean_answer += (answer_left(job) - self._mean_answer) / self._num_seen

    def length(self, job: Job) -> float:
        """Its predicted answer as a share of the mean one, at most 1."""
        return min(1.0, answer_left(job) / max(1.0, self._mean_answer))

    def left(self, job: Job, known: int) -> int:
        """Tokens that a request with `known` ones will get still, with what makes it safe."""
        out = known - job.prompt_tokens
        most = max(1, job.max_tokens - out)
        if self._longest:
            return most
        left = min(job.predicted_tokens, job.max_tokens) - out
        if left <= 0:
            left = max(EXTRA_TOKENS, int(EXTRA_SHARE * out))
        return min(most, ceil(left * (1 + self._pad)) + self._buffer)

    def grouped(self, job: Job, known: int, end: int) -> int:
        """As `left`, and more so that requests end together; it would end at step `end`."""
        more = -end % self._grain if self._grain else 0
        return min(job.prompt_tokens + job.max_tokens - known, self.left(job, known) + more)
