"""A torch engine in this process behind `drive.Engine`: real steps in real time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rondo.policy.plan import StepPlan
from rondo_bench.econoserve.drive import Offered
from rondo_bench.engines.margins import keep_margins
from rondo_worker.engines.base import EngineRequest

if TYPE_CHECKING:
    from rondo_worker.engines.torch import TorchEngine  # loads torch

#: Stands for an answer's last token where its length is forced: no model has such a token.
END = -1


@dataclass(slots=True)
class RealEngine:
    """Computes the steps of one run. Implements `drive.Engine`; its clock starts when it is made.

    `requests` are those of the run, by their ids. With `forced` an answer ends after
    `Offered.output_tokens` whatever the model says: its last token is then END, which the scheduler
    has to know as an end token. So nothing but the answer itself tells a scheduler how long it is.
    """

    engine: TorchEngine
    requests: Mapping[str, EngineRequest]
    forced: bool
    _live: dict[str, int] = field(default_factory=dict)
    """Tokens that are still to come of each answer, before it is ended."""
    _began_s: float = field(default_factory=time.monotonic)

    def now_s(self) -> float:
        """Seconds since the beginning of the run."""
        return time.monotonic() - self._began_s

    def wait_until(self, at_s: float) -> None:
        """Sleeps; see `drive.Engine`."""
        time.sleep(max(0.0, at_s - self.now_s()))

    def add(self, offered: Offered) -> None:
        """A request arrived."""
        self.engine.add(self.requests[offered.request_id])
        self._live[offered.request_id] = offered.output_tokens

    def execute(self, plan: StepPlan) -> dict[str, int]:
        """Computes a step; see `drive.Engine`."""
        tokens = self.engine.step(plan)
        if self.forced:
            for request_id in tokens:
                self._live[request_id] -= 1
                if not self._live[request_id]:
                    tokens[request_id] = END
        return tokens

    def remove(self, request_id: str) -> None:
        """A request has ended."""
        self.engine.remove(request_id)
        del self._live[request_id]

    def clear(self) -> None:
        """Forgets what a run that was cut short left behind."""
        for request_id in list(self._live):
            self.remove(request_id)


@dataclass(slots=True)
class WatchedEngine(RealEngine):
    """Notes how clear each answer is; `margins`: see `keep_margins`."""

    margins: dict[str, float] = field(default_factory=dict)

    def execute(self, plan: StepPlan) -> dict[str, int]:
        """Computes a step; see `drive.Engine`."""
        tokens = RealEngine.execute(self, plan)
        keep_margins(self.margins, self.engine.last_logits)
        return tokens
