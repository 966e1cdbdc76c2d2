"""Prometheus metrics of a worker."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rondo.policy.turns import TurnEnd
from rondo.types import Phase
from rondo_worker.loop import StepRecord

_PHASES = (Phase.PREFILL, Phase.DECODE, Phase.FUSED)
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
        step_s = Histogram(
            "rondo_step_seconds",
            "Engine step time",
            ["phase"],
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        tokens = Counter("rondo_tokens", "Tokens computed, by phase", ["phase"], registry=registry)
        self._turn_s = Histogram(
            "rondo_turn_seconds",
            "Length of prefill turns",
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        self._reused = Gauge(
            "rondo_reused_prompt_tokens",
            "Prompt tokens so far that were not computed because their KV was in the pool",
            registry=registry,
        )
        blocks = Gauge("rondo_kv_blocks", "KV blocks by state", ["state"], registry=registry)
        requests = Gauge(
            "rondo_requests", "Requests on the instance by state", ["state"], registry=registry
        )
        # Bound once: this runs after every step, and the labels are there before the first one.
        self._step_s = {phase: step_s.labels(phase.value) for phase in _PHASES}
        self._tokens = {phase: tokens.labels(phase.value) for phase in _PHASES}
        self._used, self._free, self._reserved = map(blocks.labels, ("used", "free", "reserved"))
        self._running, self._waiting = map(requests.labels, ("running", "waiting"))

    def watch_reuse(self, count: Callable[[], int]) -> None:
        """Reads the number of reused tokens from `count`."""
        self._reused.set_function(count)

    def observe(self, record: StepRecord) -> None:
        """Takes in one round of the step loop."""
        progress = record.progress
        for step in progress.steps:
            self._step_s[step.phase].observe(step.duration_s)
            self._tokens[step.phase].inc(step.num_tokens)
        for event in record.turn_events:
            if isinstance(event, TurnEnd):
                self._turn_s.observe(event.duration_s)
        if record.error:
            self._failed.inc(len(record.error.request_ids))
        self._used.set(progress.kv.used_blocks)
        self._free.set(progress.kv.free_blocks)
        self._reserved.set(progress.kv.reserved_blocks)
        self._running.set(progress.num_running)
        self._waiting.set(progress.num_waiting)
