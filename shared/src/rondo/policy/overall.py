"""Overall scheduler: which macro-instance a request goes to (EcoServe, section 4.1).

By model; among those of a model the one with room, then the fewest requests that wait for each
instance, then the least running for each instance. Summaries may be stale, so what was sent since
the last one is counted as waiting: no burst of requests goes to one place because of an old report.
Ties go to the macro-instance that came first.
"""

from __future__ import annotations

import msgspec

from rondo.types import RequestInfo


class MacroSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A macro-instance as its owner reports it. `free_blocks` is of the instance with most."""

    model: str
    num_instances: int
    num_pending: int
    num_running: int
    max_model_len: int
    free_blocks: int
    block_size: int


class OverallScheduler:
    """Chooses among macro-instances; O(macro-instances) a request."""

    def __init__(self) -> None:
        self._summaries: dict[str, MacroSummary] = {}
        self._sent: dict[str, int] = {}

    def update(self, macro_id: str, summary: MacroSummary) -> None:
        """The latest report; what was sent before is part of it."""
        self._summaries[macro_id] = summary
        self._sent[macro_id] = 0

    def remove(self, macro_id: str) -> None:
        """The macro-instance is gone."""
        self._summaries.pop(macro_id, None)
        self._sent.pop(macro_id, None)

    def choose(self, model: str, request: RequestInfo) -> str | None:
        """The macro-instance for a request, which is taken to be sent there; None: no instance of
        the model could hold it."""
        total = request.prompt_tokens + request.max_tokens
        best: tuple[tuple[bool, float, float], str] | None = None
        for macro_id, summary in self._summaries.items():
            if summary.model != model or total > summary.max_model_len or not summary.num_instances:
                continue
            load = self._load(macro_id, summary, request)
            if best is None or load < best[0]:
                best = load, macro_id
        if best is None:
            return None
        self._sent[best[1]] += 1
        return best[1]

    def _load(
        self, macro_id: str, summary: MacroSummary, request: RequestInfo
    ) -> tuple[bool, float, float]:
        full = summary.free_blocks * summary.block_size < request.prompt_tokens
        waiting = summary.num_pending + self._sent[macro_id]
        return full, waiting / summary.num_instances, summary.num_running / summary.num_instances
