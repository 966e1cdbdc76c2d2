"""The kinds of instances that a macro-instance has: what is asked of one holds for all of it."""

from __future__ import annotations

from collections.abc import Iterable

from rondo.policy.capacity import Lengths, instance_rate
from rondo.policy.view import InstanceView


class Kinds:
    """One instance of each latency model; `most_tokens` is of a request that some instance can
    hold."""

    def __init__(self) -> None:
        self.most_tokens = 0
        self._first: list[InstanceView] = []

    def sort(self, views: Iterable[InstanceView]) -> None:
        """These are all instances now."""
        self._first, self.most_tokens = [], 0
        for view in views:
            self.most_tokens = max(self.most_tokens, view.most_tokens)
            if all(view.info.latency != known.info.latency for known in self._first):
                self._first.append(view)

    def alone_s(self, prompt_tokens: int) -> float:
        """Predicted prefill time on an idle instance, the fastest kind; 0 where there is none."""
        if len(self._first) == 1:
            return self._first[0].alone_s(prompt_tokens)
        return min([view.alone_s(prompt_tokens) for view in self._first], default=0.0)

    def rate(self, recent: tuple[Lengths, float] | None) -> float | None:
        """Requests/s that an instance can serve: the mean over kinds; None: not known yet.

        Args:
            recent: lengths and TPOT limit of what came lately, where known.
        """
        if recent is None or not self._first:
            return None
        rates = (instance_rate(view.latency, view.kv_tokens, *recent) for view in self._first)
        return sum(rates) / len(self._first)
