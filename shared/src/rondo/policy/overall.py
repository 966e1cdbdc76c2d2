"""Overall scheduler: which macro-instance a request goes to (EcoServe, section 4.1).

By model; among those of a model one that reported lately, with room for the prompt, then the fewest
requests that wait for each instance (they stand for the time until admission), then the fewest that
run for each instance. What was sent since the last report counts as waiting: no burst of requests
goes to one place because of an old report. Ties go to the macro-instance that came first.

Not sticky, other than the scheduler below: a macro-instance has somebody who takes prompts all the
time, so filling one before the next would only queue there what others could take now.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from rondo.errors import ConfigError
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


@dataclass(slots=True)
class _Known:
    """The last report, what was sent since, and the load that follows from both."""

    summary: MacroSummary
    at_s: float
    waiting: float  # for each instance
    running: float  # for each instance


class OverallScheduler:
    """Chooses among macro-instances; O(macro-instances of the model) a request.

    Args:
        stale_after_s: a report older than this is not believed; such a macro-instance gets requests
            only when no other could hold them.
    """

    def __init__(self, stale_after_s: float = 5.0) -> None:
        if not stale_after_s > 0:
            raise ConfigError("stale_after_s", "must be above 0")
        self.stale_after_s = stale_after_s
        self._models: dict[str, dict[str, _Known]] = {}
        self._model_of: dict[str, str] = {}

    def update(self, macro_id: str, summary: MacroSummary, at_s: float | None = None) -> None:
        """The latest report, which includes what was sent before.

        Args:
            at_s: when it was true, on the clock of the requests' `arrival_s`; None: always.
        """
        if self._model_of.get(macro_id, summary.model) != summary.model:
            self.remove(macro_id)
        self._model_of[macro_id] = summary.model
        num = max(1, summary.num_instances)
        self._models.setdefault(summary.model, {})[macro_id] = _Known(
            summary=summary,
            at_s=float("inf") if at_s is None else at_s,
            waiting=summary.num_pending / num,
            running=summary.num_running / num,
        )

    def remove(self, macro_id: str) -> None:
        """The macro-instance is gone."""
        model = self._model_of.pop(macro_id, None)
        if model is not None:
            del self._models[model][macro_id]

    def choose(self, model: str, request: RequestInfo, at_s: float | None = None) -> str | None:
        """The macro-instance for a request, which is taken to be sent there.

        Args:
            at_s: now, by which reports are stale; None takes the request's arrival.

        Returns:
            None when no instance of the model could ever hold the request.
        """
        total = request.prompt_tokens + request.max_tokens
        believed_s = (request.arrival_s if at_s is None else at_s) - self.stale_after_s
        chosen: str | None = None
        best: tuple[bool, bool, float, float] = (True, True, float("inf"), float("inf"))
        for macro_id, known in self._models.get(model, {}).items():
            summary = known.summary
            if total > summary.max_model_len or not summary.num_instances:
                continue
            full = summary.free_blocks * summary.block_size < request.prompt_tokens
            load = known.at_s < believed_s, full, known.waiting, known.running
            if chosen is None or load < best:
                chosen, best = macro_id, load
        if chosen is not None:
            known = self._models[model][chosen]
            known.waiting += 1 / known.summary.num_instances
        return chosen
