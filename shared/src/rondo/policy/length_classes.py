"""Classes of predicted answer lengths, and which instances of a macro-instance each prefers.

EconoServe's groups of equal length (arXiv 2411.06364, section 3) across a macro-instance: answers
of about the same length share instances. Each class has as much work as any other, and a contiguous
share of the instances.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from itertools import pairwise
from statistics import median

from rondo.types import LatencyModel

#: Requests that the classes are made of, the least that make any, and after how many more they are
#: made anew.
RECENT = 1024
LEAST_SEEN = 128
REFRESH = 64
#: Predictions of requests that came one after the other differ by this factor, in the median, or
#: they say nothing: no classes. A running mean, which a gateway predicts when it knows nothing
#: better, may drift by more than that, but not from one request to the next.
APART = 1.25
#: The step in which a request's work is measured: so many others decode, or prompt tokens.
OTHERS = 64
OTHER_TOKENS = 512


class LengthClasses:
    """Mutable; told of every request that arrives.

    Args:
        num: how many classes; 1 or less never makes any.
    """

    def __init__(self, num: int) -> None:
        self._num = num
        self._recent: deque[tuple[int, float]] = deque(maxlen=RECENT)
        self._until_refresh = LEAST_SEEN
        self._lows: list[int] = []  # for each cut between classes the length below it,
        self._highs: list[int] = []  # and the one above, which may be the same

    def see(self, predicted_tokens: int, work_s: float) -> None:
        """A request arrived; it is predicted to answer with 1 token at least."""
        self._recent.append((predicted_tokens, work_s))
        self._until_refresh -= 1
        if self._until_refresh <= 0:
            self._until_refresh = REFRESH
            self._cut()

    def share(self, predicted_tokens: int, num_instances: int) -> range:
        """Instances that a request prefers, by their places in the order of joining.

        All of them when there are no classes; those of several when one length fills several.
        """
        if not self._lows:
            return range(num_instances)
        first = bisect_left(self._lows, predicted_tokens)
        last = max(first, bisect_right(self._highs, predicted_tokens))
        start = first * num_instances // self._num
        return range(start, max(start + 1, (last + 1) * num_instances // self._num))

    def _cut(self) -> None:
        """Cuts what came lately into classes of equal work."""
        self._lows, self._highs = [], []
        pairs = pairwise(tokens for tokens, _ in self._recent)
        if self._num < 2 or median(max(pair) / min(pair) for pair in pairs) < APART:
            return
        lengths = sorted(self._recent)
        part_s = sum(work_s for _, work_s in lengths) / self._num
        below_s = lengths[0][1]
        for (low, _), (high, work_s) in pairwise(lengths):
            while below_s >= (len(self._lows) + 1) * part_s and len(self._lows) + 1 < self._num:
                self._lows.append(low)
                self._highs.append(high)
            below_s += work_s


def added_work_s(latency: LatencyModel, prompt_tokens: int, answer_tokens: int) -> float:
    """What a request adds to the steps of an instance that is busy with others."""
    step_s, context = latency.step_s, prompt_tokens + answer_tokens // 2
    pairs = prompt_tokens * prompt_tokens
    prompt_s = step_s(OTHER_TOKENS + prompt_tokens, pairs, 0, 0) - step_s(OTHER_TOKENS, 0, 0, 0)
    with_it_s = step_s(0, 0, OTHERS + 1, (OTHERS + 1) * context)
    return prompt_s + answer_tokens * (with_it_s - step_s(0, 0, OTHERS, OTHERS * context))
