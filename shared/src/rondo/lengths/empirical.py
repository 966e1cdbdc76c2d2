"""The lengths of a model's last answers: what is known where no predictor was trained."""

from __future__ import annotations

from collections import deque

from rondo.lengths.classes import LengthClasses, LengthDistribution

#: Answers that are remembered.
WINDOW = 512
#: Classes that a distribution is told in.
NUM_CLASSES = 32


class EmpiricalLengths:
    """The last `window` answers that ended by themselves."""

    def __init__(self, window: int = WINDOW) -> None:
        self._lengths: deque[int] = deque(maxlen=window)
        self._sum = 0

    def observe(self, num_tokens: int) -> None:
        """An answer ended by itself after `num_tokens`."""
        if len(self._lengths) == self._lengths.maxlen:
            self._sum -= self._lengths[0]
        self._lengths.append(num_tokens)
        self._sum += num_tokens

    @property
    def mean(self) -> float | None:
        """Tokens of an answer on average; None before the first one."""
        return self._sum / len(self._lengths) if self._lengths else None

    def distribution(self) -> LengthDistribution | None:
        """How long answers were; None before the first one. Sorts: not for every request."""
        if not self._lengths:
            return None
        classes = LengthClasses.of(list(self._lengths), NUM_CLASSES)
        counts = [0] * len(classes)
        for length in self._lengths:
            counts[classes.index(length)] += 1
        cumulative = [0.0]
        for count in counts:
            cumulative.append(cumulative[-1] + count / len(self._lengths))
        return LengthDistribution(classes, (*cumulative[:-1], 1.0))
