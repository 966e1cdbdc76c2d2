"""What metrics count: objectives met, where time went, and the same under vLLM's names."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rondo.metrics.lifecycle import Lifecycle
from rondo.metrics.vllm_names import ALIASES, VllmNames
from rondo.types import Slo
from rondo.wire.messages import FirstToken
from rondo_gateway.metrics import EndedAnswer, GatewayMetrics

MODEL = {"model": "m"}


def times(ttft_s: float, tpot_s: float, num_tokens: int = 11) -> Lifecycle:
    """An answer that was admitted 0.1 s after its arrival at 100 s."""
    first_s = 100.0 + ttft_s
    last_s = first_s + tpot_s * (num_tokens - 1)
    return Lifecycle(100.0, 100.1, first_s, last_s, num_tokens)


def ended(outcome: str = "stop", lifecycle: Lifecycle | None = None) -> CollectorRegistry:
    """The metrics after one answer, with objectives of 1 s and 50 ms."""
    registry = CollectorRegistry()
    GatewayMetrics(registry).ended(
        EndedAnswer(
            model="m",
            outcome=outcome,
            prompt_tokens=7,
            slo=Slo(ttft_s=1.0, tpot_s=0.05),
            times=lifecycle or times(0.5, 0.04),
            submitted_s=100.02,
            first=FirstToken(0.2, 0.15),
        )
    )
    return registry


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    found = registry.get_sample_value(name, {**MODEL, **labels})
    assert found is not None, (name, labels)
    return found


def met(registry: CollectorRegistry) -> tuple[float, float, float]:
    ttft, tpot, both = (
        value(registry, "rondo_slo_met_total", objective=name) for name in ("ttft", "tpot", "both")
    )
    return ttft, tpot, both


@pytest.mark.parametrize(
    ("lifecycle", "expected"),
    [
        (times(1.0, 0.05), (1, 1, 1)),
        (times(1.01, 0.05), (0, 1, 0)),
        (times(1.0, 0.051), (1, 0, 0)),
        (times(1.0, 0.0, num_tokens=1), (1, 1, 1)),
    ],
)
def test_answers_are_held_against_their_objectives(
    lifecycle: Lifecycle, expected: tuple[float, float, float]
) -> None:
    registry = ended(lifecycle=lifecycle)
    assert value(registry, "rondo_slo_requests_total") == 1
    assert met(registry) == pytest.approx(expected)


def test_who_got_no_answer_did_not_get_it_in_time() -> None:
    registry = ended("CapacityError", Lifecycle(100.0))
    assert value(registry, "rondo_slo_requests_total") == 1
    assert met(registry) == (0, 0, 0)
    assert met(ended("EngineError")) == (0, 0, 0)


@pytest.mark.parametrize("outcome", ["cancelled", "ApiError"])
def test_clients_that_leave_or_err_are_not_held_against_us(outcome: str) -> None:
    assert value(ended(outcome), "rondo_slo_requests_total") == 0


def test_the_time_before_the_first_token_is_told_apart() -> None:
    registry = ended()
    for name, expected_s in {
        "rondo_admission_seconds": 0.08,
        "rondo_turn_wait_seconds": 0.2,
        "rondo_request_queue_time_seconds": 0.28,
        "rondo_request_prefill_time_seconds": 0.15,
        "rondo_time_to_first_token_seconds": 0.5,
        "rondo_request_decode_time_seconds": 0.4,
        "rondo_e2e_request_latency_seconds": 0.9,
        "rondo_time_per_output_token_seconds": 0.04,
    }.items():
        assert value(registry, f"{name}_count") == 1, name
        assert value(registry, f"{name}_sum") == pytest.approx(expected_s), name


def test_models_are_there_before_their_first_request() -> None:
    registry = CollectorRegistry()
    GatewayMetrics(registry).watch_models(["m"])
    assert value(registry, "rondo_requests_total", outcome="stop") == 0
    assert value(registry, "rondo_time_to_first_token_seconds_count") == 0
    assert met(registry) == (0, 0, 0)


def test_a_gateway_speaks_vllms_names_too() -> None:
    registry = ended("cancelled")
    VllmNames(registry)
    labels = {"model_name": "m", "engine": "0"}
    for name, expected in {
        "vllm:time_to_first_token_seconds_sum": 0.5,
        "vllm:request_time_per_output_token_seconds_count": 1,
        "vllm:request_queue_time_seconds_sum": 0.28,
        "vllm:prompt_tokens_total": 7,
        "vllm:generation_tokens_total": 11,
    }.items():
        assert registry.get_sample_value(name, labels) == pytest.approx(expected), name
    aborted = {**labels, "finished_reason": "abort"}
    assert registry.get_sample_value("vllm:request_success_total", aborted) == 1
    bucket = {**labels, "le": "0.5"}
    assert registry.get_sample_value("vllm:time_to_first_token_seconds_bucket", bucket) == 1


def test_ends_that_vllm_does_not_know_stay_ours() -> None:
    registry = ended("EngineError")
    VllmNames(registry)
    samples = [s for metric in registry.collect() for s in metric.samples]
    assert not [s for s in samples if s.name == "vllm:request_success_total"]


def test_a_worker_speaks_vllms_names_too() -> None:
    registry = CollectorRegistry()
    blocks = Gauge("rondo_kv_blocks", "", ["state"], registry=registry)
    for state, count in (("used", 30), ("free", 10), ("reserved", 5)):
        blocks.labels(state).set(count)
    requests = Gauge("rondo_requests", "", ["state"], registry=registry)
    requests.labels("running").set(4)
    requests.labels("waiting").set(2)
    Gauge("rondo_reused_prompt_tokens", "", registry=registry).set(25)
    Counter("rondo_computed_prompt_tokens", "", registry=registry).inc(75)
    Histogram("rondo_step_seconds", "", registry=registry).observe(1)
    VllmNames(registry, "m")
    labels = {"model_name": "m", "engine": "0"}
    for name, expected in {
        "vllm:num_requests_running": 4,
        "vllm:num_requests_waiting": 2,
        "vllm:kv_cache_usage_perc": 0.75,
        "vllm:prefix_cache_hits_total": 25,
        "vllm:prefix_cache_queries_total": 100,
    }.items():
        assert registry.get_sample_value(name, labels) == expected, name
    published = {metric.name for metric in registry.collect() if metric.name.startswith("vllm:")}
    assert len(published) == 5


def test_no_name_of_vllms_is_given_twice() -> None:
    names = [alias.vllm for alias in ALIASES]
    assert len(names) == len(set(names))
