"""Metrics under vLLM's names, beside our own, where they mean the same.

Nothing is counted twice: what is asked for is read from our metrics when the program is scraped.
Names and meanings are those of vLLM's V1 engine (docs.vllm.ai, "Production Metrics").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

_PREFIX = "vllm:"
_SUFFIXES = ("", "_total", "_bucket", "_sum", "_count")


@dataclass(frozen=True, slots=True)
class Alias:
    """One of our metrics and its name at vLLM.

    `kind` is its Prometheus type. `where` selects samples by labels, which are dropped; `outcomes`
    says what vLLM calls the values of the label `outcome` (its `finished_reason`).
    """

    vllm: str
    rondo: str
    kind: str
    where: Mapping[str, str] = field(default_factory=dict)
    outcomes: Mapping[str, str] = field(default_factory=dict)


def _same(kind: str, *names: str) -> list[Alias]:
    return [Alias(name, f"rondo_{name}", kind) for name in names]


ALIASES: Sequence[Alias] = (
    *_same("counter", "prompt_tokens", "generation_tokens"),
    *_same(
        "histogram",
        "time_to_first_token_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "request_prefill_time_seconds",
        "request_decode_time_seconds",
        "request_prompt_tokens",
        "request_generation_tokens",
    ),
    Alias(
        "request_time_per_output_token_seconds",
        "rondo_time_per_output_token_seconds",
        "histogram",
    ),
    Alias(
        "request_success",
        "rondo_requests",
        "counter",
        outcomes={"stop": "stop", "length": "length", "cancelled": "abort"},
    ),
    Alias("num_requests_running", "rondo_requests", "gauge", where={"state": "running"}),
    Alias("num_requests_waiting", "rondo_requests", "gauge", where={"state": "waiting"}),
)
_SOURCES = [*dict.fromkeys(alias.rondo for alias in ALIASES)]
_DERIVED = ("rondo_kv_blocks", "rondo_reused_prompt_tokens", "rondo_computed_prompt_tokens")


class VllmNames(Collector):
    """Publishes what a registry has under vLLM's names, too.

    Args:
        model: name of the model, for metrics of a program that has one only.
    """

    def __init__(self, registry: CollectorRegistry, model: str = "") -> None:
        names = [name + end for name in (*_SOURCES, *_DERIVED) for end in _SUFFIXES]
        self._read = registry.restricted_registry(names).collect
        self._labels = {"model_name": model, "engine": "0"} if model else {}
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Our metrics as they are now, renamed."""
        found = {(metric.name, metric.type): metric for metric in self._read()}
        for alias in ALIASES:
            if source := found.get((alias.rondo, alias.kind)):
                yield self._renamed(source, alias)
        yield from self._cache({name: metric for (name, _), metric in found.items()})

    def _renamed(self, source: Metric, alias: Alias) -> Metric:
        renamed = Metric(_PREFIX + alias.vllm, source.documentation, source.type)
        for sample in source.samples:
            labels = {**self._labels, **sample.labels}
            if any(labels.pop(name, None) != value for name, value in alias.where.items()):
                continue
            if alias.outcomes:
                reason = alias.outcomes.get(labels.pop("outcome"))
                if reason is None:  # vLLM has no such end
                    continue
                labels["finished_reason"] = reason
            if model := labels.pop("model", ""):
                labels |= {"model_name": model, "engine": "0"}
            name = _PREFIX + alias.vllm + sample.name.removeprefix(alias.rondo)
            renamed.add_sample(name, labels, sample.value)
        return renamed

    def _cache(self, found: Mapping[str, Metric]) -> Iterator[Metric]:
        """What vLLM says as a share, or counts otherwise than we do."""
        if not all(name in found for name in _DERIVED):
            return
        kv, reused, computed = (found[name] for name in _DERIVED)
        blocks = {sample.labels["state"]: sample.value for sample in kv.samples}
        labels, values = list(self._labels), list(self._labels.values())
        usage = GaugeMetricFamily(_PREFIX + "kv_cache_usage_perc", "Share in use", labels=labels)
        total = blocks["used"] + blocks["free"]
        usage.add_metric(values, blocks["used"] / total if total else 0.0)
        hits = CounterMetricFamily(
            _PREFIX + "prefix_cache_hits", "Prompt tokens whose KV was there", labels=labels
        )
        hits.add_metric(values, reused.samples[0].value)
        queries = CounterMetricFamily(
            _PREFIX + "prefix_cache_queries", "Prompt tokens looked up", labels=labels
        )
        queries.add_metric(values, reused.samples[0].value + computed.samples[0].value)
        yield from (usage, hits, queries)
