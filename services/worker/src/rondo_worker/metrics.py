"""Prometheus metrics of a worker."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rondo.policy.turns import TurnEnd
from rondo.types import Phase
from rondo_worker.loop import StepRecord

_STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class WorkerMetrics:
    """Counts what the step loop does."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.stale_commands = Counter(
            "rondo_stale_commands", "Commands of an older epoch, ignored", registry=registry
        )
        self.cancelled = Counter(
            "rondo_cancelled_requests", "Requests cancelled while live", registry=registry
        )
        self._failed = Counter(
            "rondo_failed_requests", "Requests ended by an engine error", registry=registry
        )
        self._step_s = Histogram(
            "rondo_step_seconds",
            "Engine step time",
            ["phase"],
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        self._tokens = Counter(
            "rondo_tokens", "Tokens computed, by phase", ["phase"], registry=registry
        )
        self._turn_s = Histogram(
            "rondo_turn_seconds",
            "Length of prefill turns",
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        self._blocks = Gauge("rondo_kv_blocks", "KV blocks by state", ["state"], registry=registry)
        self._requests = Gauge(
            "rondo_requests", "Requests on the instance by state", ["state"], registry=registry
        )

        for phase in (Phase.PREFILL, Phase.DECODE):  # visible before the first step
            self._step_s.labels(phase.value)
            self._tokens.labels(phase.value)

    def observe(self, record: StepRecord) -> None:
        """Takes in one round of the step loop."""
        progress = record.progress
        for step in progress.steps:
            self._step_s.labels(step.phase.value).observe(step.duration_s)
            self._tokens.labels(step.phase.value).inc(step.num_tokens)
        for event in record.turn_events:
            if isinstance(event, TurnEnd):
                self._turn_s.observe(event.duration_s)
        if record.error:
            self._failed.inc(len(record.error.request_ids))
        self._blocks.labels("used").set(progress.kv.used_blocks)
        self._blocks.labels("free").set(progress.kv.free_blocks)
        self._blocks.labels("reserved").set(progress.kv.reserved_blocks)
        self._requests.labels("running").set(progress.num_running)
        self._requests.labels("waiting").set(progress.num_waiting)
