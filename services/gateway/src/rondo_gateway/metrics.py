"""Prometheus metrics of a gateway."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rondo.metrics.lifecycle import Lifecycle

_TTFT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TPOT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1)


class GatewayMetrics:
    """Counts requests and tokens, and how long clients waited."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "rondo_requests", "Answers by outcome", ["model", "outcome"], registry=registry
        )
        self._prompt_tokens = Counter(
            "rondo_prompt_tokens", "Tokens of prompts", ["model"], registry=registry
        )
        self._answer_tokens = Counter(
            "rondo_generation_tokens", "Tokens of answers", ["model"], registry=registry
        )
        self._ttft_s = Histogram(
            "rondo_time_to_first_token_seconds",
            "Arrival to first token",
            ["model"],
            buckets=_TTFT_BUCKETS,
            registry=registry,
        )
        self._tpot_s = Histogram(
            "rondo_time_per_output_token_seconds",
            "Mean time between tokens of an answer",
            ["model"],
            buckets=_TPOT_BUCKETS,
            registry=registry,
        )
        self.frames = Counter("rondo_token_frames", "Token frames received", registry=registry)
        self.gaps = Counter("rondo_token_frame_gaps", "Token frames missed", registry=registry)
        self.resyncs = Counter("rondo_resyncs", "Answers asked for again", registry=registry)
        self.resumed = Counter(
            "rondo_resumed_answers", "Answers that went on on another instance", registry=registry
        )
        self._live = Gauge("rondo_live_answers", "Answers under way", registry=registry)

    def watch_live(self, count: Callable[[], int]) -> None:
        """Reads the gauge of live answers from `count`."""
        self._live.set_function(count)

    def ended(self, model: str, outcome: str, prompt_tokens: int, times: Lifecycle) -> None:
        """An answer ended: `outcome` is a finish reason, `cancelled` or an error's class."""
        self._requests.labels(model, outcome).inc()
        self._prompt_tokens.labels(model).inc(prompt_tokens)
        self._answer_tokens.labels(model).inc(times.num_tokens)
        if times.ttft_s is not None:
            self._ttft_s.labels(model).observe(times.ttft_s)
        if times.tpot_s is not None:
            self._tpot_s.labels(model).observe(times.tpot_s)
