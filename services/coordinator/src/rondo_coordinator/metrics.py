"""Prometheus metrics of a coordinator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from rondo.perf.correction import DECODE, FUSED, PREFILL, CorrectedModel
from rondo.policy.events import Observed

#: Actual minus predicted, in seconds.
_ERROR_BUCKETS = (-5, -1, -0.5, -0.1, -0.05, -0.01, -0.001, 0, 0.001, 0.01, 0.05, 0.1, 0.5, 1, 5)


class CoordinatorMetrics:
    """Counts admissions and turns, and how far predictions were off."""

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

    def watch_latencies(self, models: Callable[[], Iterable[tuple[str, CorrectedModel]]]) -> None:
        """Reads instances' latency models from `models`, as (instance id, model)."""
        self._registry.register(_StepPredictions(models))

    def observed(self, effect: Observed) -> None:
        """A prediction met its outcome."""
        if effect.actual_ttft_s is not None and effect.predicted_ttft_s is not None:
            error_s = effect.actual_ttft_s - effect.predicted_ttft_s
            self._error_s.labels("ttft").observe(error_s)
        if effect.actual_tpot_s is not None and effect.predicted_tpot_s is not None:
            error_s = effect.actual_tpot_s - effect.predicted_tpot_s
            self._error_s.labels("tpot").observe(error_s)


class _StepPredictions(Collector):
    """How well the durations of steps are foretold: read when scraped, for who is a member then."""

    _KINDS = (("decode", DECODE), ("prefill", PREFILL), ("fused", FUSED))

    def __init__(self, models: Callable[[], Iterable[tuple[str, CorrectedModel]]]) -> None:
        self._models = models

    def collect(self) -> Iterator[GaugeMetricFamily]:
        labels = ["instance", "kind"]
        error = GaugeMetricFamily(
            "rondo_step_prediction_error_ratio",
            "Recent mean of |predicted - measured| / measured duration of a step",
            labels=labels,
        )
        factor = GaugeMetricFamily(
            "rondo_step_prediction_factor",
            "What the profile's durations are multiplied with",
            labels=labels,
        )
        for instance_id, model in self._models():
            for name, kind in self._KINDS:
                if model.seen(kind):
                    error.add_metric([instance_id, name], model.error(kind))
                    factor.add_metric([instance_id, name], model.factor(kind))
        yield error
        yield factor
