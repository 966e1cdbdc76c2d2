"""Classes of answer lengths by percentile, and a distribution over them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LengthClasses:
    """Class k holds the lengths in (edges[k], edges[k + 1]], in tokens; `means[k]` is their mean.

    Lengths outside belong to the first and last class.
    """

    edges: tuple[int, ...]
    means: tuple[float, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], num_classes: int) -> LengthClasses:
        """Classes that hold about as many of `lengths` each; fewer where lengths repeat.

        A length that many answers have gets a class of its own, so it is predicted exactly.
        """
        ordered = sorted(lengths)
        ranks = range(1, num_classes + 1)
        tops = {ordered[math.ceil(len(ordered) * k / num_classes) - 1] for k in ranks}
        edges = [ordered[0] - 1, *sorted(tops)]
        sums, counts = [0.0] * (len(edges) - 1), [0] * (len(edges) - 1)
        for length in ordered:
            k = max(0, bisect_left(edges, length) - 1)
            sums[k] += length
            counts[k] += 1
        means = tuple(total / count for total, count in zip(sums, counts, strict=True))
        return cls(tuple(edges), means)

    def __len__(self) -> int:
        return len(self.means)

    def index(self, length: int) -> int:
        """The class of a length."""
        return min(max(bisect_left(self.edges, length) - 1, 0), len(self.means) - 1)


@dataclass(frozen=True, slots=True)
class LengthDistribution:
    """How long an answer may be. `cumulative[k]` is the chance of at most edges[k] tokens: it
    rises from 0 to 1. Within a class all lengths are as likely.
    """

    classes: LengthClasses
    cumulative: tuple[float, ...]

    @property
    def probabilities(self) -> list[float]:
        """Of the classes."""
        bounds = self.cumulative
        return [bounds[k + 1] - bounds[k] for k in range(len(bounds) - 1)]

    @property
    def expected(self) -> float:
        """Mean length in tokens."""
        means = self.classes.means
        return sum(p * mean for p, mean in zip(self.probabilities, means, strict=True))

    def cdf(self, length: float) -> float:
        """The chance that the answer has at most so many tokens."""
        edges, cumulative = self.classes.edges, self.cumulative
        if length <= edges[0]:
            return 0.0
        if length >= edges[-1]:
            return 1.0
        k = bisect_left(edges, length) - 1
        share = (length - edges[k]) / (edges[k + 1] - edges[k])
        return cumulative[k] + share * (cumulative[k + 1] - cumulative[k])

    def quantile(self, share: float) -> int:
        """The least length that the answer does not pass with the chance `share`, 0 to 1."""
        edges, cumulative = self.classes.edges, self.cumulative
        k = min(max(bisect_left(cumulative, share) - 1, 0), len(edges) - 2)
        width = cumulative[k + 1] - cumulative[k]
        part = min(1.0, max(0.0, (share - cumulative[k]) / width)) if width else 1.0
        return max(1, math.ceil(edges[k] + part * (edges[k + 1] - edges[k])))

    def expected_after(self, done: int) -> float:
        """Mean number of tokens that are still to come when `done` are there and it goes on."""
        if done <= self.classes.edges[0]:
            return self.expected - done
        edges, left, weight = self.classes.edges, 0.0, 0.0
        for k, chance in enumerate(self.probabilities):
            low, high = edges[k], edges[k + 1]
            if high <= done or not chance:
                continue
            start = max(low, done)
            mean = self.classes.means[k] if start == low else (start + high + 1) / 2
            part = chance * (high - start) / (high - low)
            left += part * (mean - done)
            weight += part
        return max(1.0, left / weight) if weight else 1.0
