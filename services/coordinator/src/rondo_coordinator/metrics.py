"""Prometheus metrics of a coordinator."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rondo.policy.events import Observed

#: Actual minus predicted, in seconds.
_ERROR_BUCKETS = (-5, -1, -0.5, -0.1, -0.05, -0.01, -0.001, 0, 0.001, 0.01, 0.05, 0.1, 0.5, 1, 5)


class CoordinatorMetrics:
    """Counts admissions and turns, and how far predictions were off."""

    def __init__(self, registry: CollectorRegistry) -> None:
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
        self._pending = Gauge(
            "rondo_pending_requests", "Requests waiting for admission", registry=registry
        )
        self._error_s = Histogram(
            "rondo_prediction_error_seconds",
            "Actual minus predicted latency of a request",
            ["latency"],
            buckets=_ERROR_BUCKETS,
            registry=registry,
        )

    def watch_pending(self, count: Callable[[], int]) -> None:
        """Reads the gauge of waiting requests from `count`."""
        self._pending.set_function(count)

    def observed(self, effect: Observed) -> None:
        """A prediction met its outcome."""
        if effect.actual_ttft_s is not None and effect.predicted_ttft_s is not None:
            error_s = effect.actual_ttft_s - effect.predicted_ttft_s
            self._error_s.labels("ttft").observe(error_s)
        if effect.actual_tpot_s is not None and effect.predicted_tpot_s is not None:
            error_s = effect.actual_tpot_s - effect.predicted_tpot_s
            self._error_s.labels("tpot").observe(error_s)
