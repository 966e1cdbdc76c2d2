"""A policy in a wrapper that passes everything on."""

from __future__ import annotations

from collections.abc import Mapping

from rondo.perf.correction import CorrectedModel
from rondo.policy.events import Decision, Event, MacroScheduler
from rondo.policy.load_count import LoadCount


class WrappedPolicy:
    """Implements MacroScheduler by another one; derive to look at what goes through."""

    def __init__(self, policy: MacroScheduler) -> None:
        self.policy = policy

    def handle(self, event: Event) -> Decision:
        """As MacroScheduler."""
        return self.policy.handle(event)

    @property
    def num_pending(self) -> int:
        """As MacroScheduler."""
        return self.policy.num_pending

    @property
    def latencies(self) -> Mapping[str, CorrectedModel]:
        """As MacroScheduler."""
        return self.policy.latencies

    @property
    def load(self) -> LoadCount:
        """As MacroScheduler."""
        return self.policy.load

    def expects_news(self, instance_id: str) -> bool:
        """As MacroScheduler."""
        return self.policy.expects_news(instance_id)

    def instance_rate(self) -> float | None:
        """As MacroScheduler."""
        return self.policy.instance_rate()

    def mean_saved_tpot_s(self, at_s: float) -> float | None:
        """As MacroScheduler."""
        return self.policy.mean_saved_tpot_s(at_s)

    def saved_tpot_s(self, at_s: float) -> Mapping[str, tuple[float, float]]:
        """As MacroScheduler."""
        return self.policy.saved_tpot_s(at_s)

    def check_invariants(self) -> None:
        """As MacroScheduler."""
        self.policy.check_invariants()
