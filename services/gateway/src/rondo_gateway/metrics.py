"""Prometheus metrics of a gateway.

Everything of a request is counted once, when its answer ends; a token costs nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rondo.metrics.lifecycle import Lifecycle
from rondo.types import Slo
from rondo.wire.messages import FirstToken
from rondo_gateway.attainment import COMPLETE, judge

_TTFT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TPOT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1)
_LONG_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKEN_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)


@dataclass(frozen=True, slots=True)
class EndedAnswer:
    """What became of a request; `outcome` is a finish reason, `cancelled` or an error's class.

    `submitted_s` is when admission was asked for, on the clock of `times`; `first` is what the
    worker said with the first token.
    """

    model: str
    outcome: str
    prompt_tokens: int
    slo: Slo
    times: Lifecycle
    submitted_s: float | None = None
    first: FirstToken | None = None


class GatewayMetrics:
    """Counts requests and tokens, how long clients waited, and for whom that was too long."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "rondo_requests", "Answers by outcome", ["model", "outcome"], registry=registry
        )
        self._families = _families(registry)
        self._models: dict[str, _OfModel] = {}
        self.frames = Counter("rondo_token_frames", "Token frames received", registry=registry)
        self.gaps = Counter("rondo_token_frame_gaps", "Token frames missed", registry=registry)
        self.resyncs = Counter("rondo_resyncs", "Answers asked for again", registry=registry)
        self.resumed = Counter(
            "rondo_resumed_answers", "Answers that went on on another instance", registry=registry
        )
        self.refused = Counter(
            "rondo_refused_requests",
            "Requests that the gate did not let pass",
            ["code"],
            registry=registry,
        )
        self._live = Gauge("rondo_live_answers", "Answers under way", registry=registry)

    def watch_live(self, count: Callable[[], int]) -> None:
        """Reads the gauge of live answers from `count`."""
        self._live.set_function(count)

    def watch_models(self, models: list[str]) -> None:
        """These models' metrics are there before their first request."""
        for model in models:
            self._of(model)
            for outcome in COMPLETE:
                self._requests.labels(model, outcome)

    def ended(self, answer: EndedAnswer) -> None:
        """An answer ended, however it did."""
        self._requests.labels(answer.model, answer.outcome).inc()
        self._of(answer.model).take(answer)

    def _of(self, model: str) -> _OfModel:
        known = self._models.get(model)
        if known is None:
            known = self._models[model] = _OfModel(self._families, model)
        return known


@dataclass(frozen=True, slots=True)
class _Families:
    """The metrics with a label for the model."""

    prompt_tokens: Counter
    answer_tokens: Counter
    judged: Counter
    met: Counter
    histograms: dict[str, Histogram]


def _families(registry: CollectorRegistry) -> _Families:
    def counter(name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, ["model", *labels], registry=registry)

    def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ["model"], buckets=buckets, registry=registry)

    long, short, tokens = _LONG_BUCKETS, _TTFT_BUCKETS, _TOKEN_BUCKETS
    return _Families(
        prompt_tokens=counter("rondo_prompt_tokens", "Tokens of prompts"),
        answer_tokens=counter("rondo_generation_tokens", "Tokens of answers"),
        judged=counter("rondo_slo_requests", "Answers that were held against their objectives"),
        met=counter("rondo_slo_met", "Those that met the objective", "objective"),
        histograms={
            "ttft": histogram("rondo_time_to_first_token_seconds", "Arrival to first token", short),
            "tpot": histogram(
                "rondo_time_per_output_token_seconds",
                "Mean time between tokens of an answer",
                _TPOT_BUCKETS,
            ),
            "e2e": histogram("rondo_e2e_request_latency_seconds", "Arrival to last token", long),
            "admission": histogram("rondo_admission_seconds", "Submit to admission", short),
            "wait": histogram("rondo_turn_wait_seconds", "Prompt sent to its first step", short),
            "queue": histogram(
                "rondo_request_queue_time_seconds", "Submit to the first step of its prefill", short
            ),
            "prefill": histogram(
                "rondo_request_prefill_time_seconds", "Steps with parts of a prompt", short
            ),
            "decode": histogram(
                "rondo_request_decode_time_seconds", "First token to last token", long
            ),
            "prompt": histogram("rondo_request_prompt_tokens", "Tokens of a prompt", tokens),
            "answer": histogram("rondo_request_generation_tokens", "Tokens of an answer", tokens),
        },
    )


class _OfModel:
    """The metrics of one model, looked up by label once."""

    def __init__(self, families: _Families, model: str) -> None:
        self._prompt_tokens = families.prompt_tokens.labels(model)
        self._answer_tokens = families.answer_tokens.labels(model)
        self._judged = families.judged.labels(model)
        self._met = {name: families.met.labels(model, name) for name in ("ttft", "tpot", "both")}
        self._histograms = {k: h.labels(model) for k, h in families.histograms.items()}

    def take(self, answer: EndedAnswer) -> None:
        times = answer.times
        self._prompt_tokens.inc(answer.prompt_tokens)
        self._answer_tokens.inc(times.num_tokens)
        self._observe("prompt", float(answer.prompt_tokens))
        self._observe("ttft", times.ttft_s)
        self._observe("tpot", times.tpot_s)
        self._observe("decode", _span_s(times.first_token_s, times.last_token_s))
        if answer.outcome in COMPLETE:
            self._observe("e2e", _span_s(times.arrival_s, times.last_token_s))
            self._observe("answer", float(times.num_tokens))
        admission_s = _span_s(answer.submitted_s, times.admitted_s)
        self._observe("admission", admission_s)
        if answer.first is not None and admission_s is not None:
            self._observe("wait", answer.first.waited_s)
            self._observe("queue", admission_s + answer.first.waited_s)
            self._observe("prefill", answer.first.prefill_s)
        if met := judge(answer.outcome, times.ttft_s, times.tpot_s, answer.slo):
            self._judged.inc()
            for name, kept in (("ttft", met.ttft), ("tpot", met.tpot), ("both", met.both)):
                if kept:
                    self._met[name].inc()

    def _observe(self, name: str, value: float | None) -> None:
        if value is not None:
            self._histograms[name].observe(value)


def _span_s(from_s: float | None, to_s: float | None) -> float | None:
    return None if from_s is None or to_s is None else max(0.0, to_s - from_s)
