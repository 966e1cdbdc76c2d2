"""Prometheus metrics of a coordinator: what it counts. What it only looks up is in macro_metrics.

Everything here is counted once a decision or a message.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.registry import Collector

from rondo.journal import Ending
from rondo.policy.events import Observed

#: Actual minus predicted, in seconds.
_ERROR_BUCKETS = (-5, -1, -0.5, -0.1, -0.05, -0.01, -0.001, 0, 0.001, 0.01, 0.05, 0.1, 0.5, 1, 5)
#: What a policy may say when it refuses (events.Reject).
_REASONS = ("no_instances", "too_long", "queue_full", "overloaded")


class CoordinatorMetrics:
    """Counts admissions, turns and leases, and how far predictions were off."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.admitted = Counter(
            "rondo_admitted_requests", "Requests admitted to an instance", registry=registry
        )
        self.rejected = Counter(
            "rondo_rejected_requests", "Requests refused, by reason", ["reason"], registry=registry
        )
        self.turns = Counter(
            "rondo_turn_commands", "Rotation tokens sent, by kind", ["kind"], registry=registry
        )
        self.gaps = Counter(
            "rondo_report_gaps", "Gaps in the numbers of instances' reports", registry=registry
        )
        self.journalled = Counter(
            "rondo_journal_records", "Decisions recorded in a journal", registry=registry
        )
        self.journals_stopped = Counter(
            "rondo_journals_stopped", "Journals that ended early", ["reason"], registry=registry
        )
        self.leases_taken = Counter(
            "rondo_leases_taken", "Macro-instances that it became the owner of", registry=registry
        )
        self.leases_lost = Counter(
            "rondo_leases_lost", "Those that another took, or it did not renew", registry=registry
        )
        self._error_s = Histogram(
            "rondo_prediction_error_seconds",
            "Actual minus predicted latency of a request",
            ["latency"],
            buckets=_ERROR_BUCKETS,
            registry=registry,
        )
        # There from the start: a rate over what appears with its first count misses that one.
        self._ttft_s, self._tpot_s = map(self._error_s.labels, ("ttft", "tpot"))
        for reason in _REASONS:
            self.rejected.labels(reason)
        for ending in (Ending.FULL, Ending.SLOW, Ending.FAILED):
            self.journals_stopped.labels(ending.value)
        for kind in ("TurnToken", "TurnExtend"):
            self.turns.labels(kind)

    def watch(self, collector: Collector) -> None:
        """Publishes what `collector` says when the program is scraped, too."""
        self._registry.register(collector)

    def observed(self, effect: Observed) -> None:
        """A prediction met its outcome."""
        if effect.actual_ttft_s is not None and effect.predicted_ttft_s is not None:
            self._ttft_s.observe(effect.actual_ttft_s - effect.predicted_ttft_s)
        if effect.actual_tpot_s is not None and effect.predicted_tpot_s is not None:
            self._tpot_s.observe(effect.actual_tpot_s - effect.predicted_tpot_s)
