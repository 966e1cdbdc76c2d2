"""Traces of a real cluster, as a collector gets them: one for each request, rightly nested."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.monitoring.otlp import Received, Receiver, receiving
from tests.support.cluster import FAST_PROFILE, Cluster, eventually, running

MODEL = "rondo-tiny"
#: Name of each span, and that of the one that it is in.
SHAPE = {
    "chat rondo-tiny": None,
    "admission": "chat rondo-tiny",
    "admit": "admission",
    "run": "chat rondo-tiny",
    "turn wait": "run",
    "prefill": "run",
    "decode": "run",
}
#: The programs of one machine read one wall clock, but each its own offset to the monotonic one.
SKEW_NS = 2_000_000


@dataclass
class Traced:
    cluster: Cluster
    receiver: Receiver


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    folder = tmp_path_factory.mktemp("traces")
    profile = folder / "fast.json"
    profile.write_text(json.dumps(FAST_PROFILE))
    options = ("--engine", "emulated", "--workers", "2", "--profile", str(profile))
    with receiving() as receiver:
        settings = {
            "RONDO_TRACES": "on",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        }
        with running(folder / "run", *options, **settings) as cluster:
            yield Traced(cluster, receiver)


def chat(
    cluster: Cluster, *, num: int = 1, headers: dict[str, str] | None = None
) -> httpx.Response:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 20,
        "ignore_eos": True,
        "n": num,
    }
    return httpx.post(f"{cluster.url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def spans_of(traced: Traced, response_id: str, count: int) -> list[Received]:
    """The trace of a response, once it has so many spans."""

    def complete() -> list[Received] | None:
        for spans in traced.receiver.traces().values():
            ids = [span.attributes.get("gen_ai.response.id") for span in spans]
            if response_id in ids and len(spans) >= count:
                return spans
        return None

    found = eventually(complete, f"{count} spans of {response_id}")
    assert isinstance(found, list)
    return found


def test_one_trace_shows_the_way_of_a_request_through_all_programs(traced: Traced) -> None:
    answer = chat(traced.cluster).json()
    spans = spans_of(traced, answer["id"], len(SHAPE))
    by_name = {span.name: span for span in spans}
    assert set(by_name) == set(SHAPE)
    assert len(spans) == len(SHAPE)
    for name, above in SHAPE.items():
        span = by_name[name]
        assert span.parent_id == (by_name[above].span_id if above else ""), name
        assert span.start_ns <= span.end_ns, name
        if above:
            assert by_name[above].start_ns - SKEW_NS <= span.start_ns, name
            assert span.end_ns <= by_name[above].end_ns + SKEW_NS, name
    order = [by_name[name] for name in ("turn wait", "prefill", "decode")]
    assert [span.end_ns for span in order[:2]] == [span.start_ns for span in order[1:]]
    # 19 decode steps of 3 ms, as the profile says.
    assert order[2].end_ns - order[2].start_ns > 19 * 3e6
    services = {name: span.service for name, span in by_name.items()}
    assert services["admission"] == services["chat rondo-tiny"] == "rondo-gateway"
    assert services["admit"] == "rondo-coordinator"
    assert {services[name] for name in ("run", "prefill", "decode")} == {"rondo-worker"}


def test_spans_say_what_was_decided_and_what_came_of_it(traced: Traced) -> None:
    answer = chat(traced.cluster).json()
    by_name = {span.name: span for span in spans_of(traced, answer["id"], len(SHAPE))}
    root, admit, run = (by_name[name].attributes for name in ("chat rondo-tiny", "admit", "run"))
    assert root["gen_ai.usage.input_tokens"] == answer["usage"]["prompt_tokens"]
    assert root["gen_ai.usage.output_tokens"] == 20
    assert root["gen_ai.response.finish_reasons"] == ["length"]
    assert root["rondo.ttft_ms"] > 0
    assert admit["rondo.instance_id"] == run["rondo.instance_id"] == by_name["run"].program_id
    assert admit["rondo.reasons"]
    assert by_name["decode"].attributes["rondo.tokens"] == 20
    assert not any(span.failed for span in by_name.values())


def test_choices_of_one_request_are_in_one_trace(traced: Traced) -> None:
    answer = chat(traced.cluster, num=3).json()
    spans = spans_of(traced, answer["id"], 1 + 3 * (len(SHAPE) - 1))
    runs = {span.attributes["rondo.request_id"] for span in spans if span.name == "run"}
    assert runs == {f"{answer['id']}-{index}" for index in range(3)}


def test_a_trace_of_the_client_goes_on(traced: Traced) -> None:
    trace_id, span_id = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    answer = chat(traced.cluster, headers={"traceparent": f"00-{trace_id}-{span_id}-01"}).json()
    spans = spans_of(traced, answer["id"], len(SHAPE))
    assert {span.trace_id for span in spans} == {trace_id}
    [root] = [span for span in spans if span.name.startswith("chat")]
    assert root.parent_id == span_id


def test_what_the_client_does_not_want_traced_is_not(traced: Traced) -> None:
    unwanted = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
    chat(traced.cluster, headers={"traceparent": f"00-{unwanted}-00f067aa0ba902b7-00"})
    last = chat(traced.cluster, headers={"traceparent": "no context at all"}).json()
    spans_of(traced, last["id"], len(SHAPE))  # sent later, and there
    assert unwanted not in traced.receiver.traces()


def test_the_last_spans_are_sent_when_programs_end(tmp_path: Path) -> None:
    with receiving() as receiver:
        settings = {
            "RONDO_TRACES": "on",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
        }
        with running(tmp_path, "--engine", "emulated", "--workers", "1", **settings) as cluster:
            chat(cluster)
            assert not receiver.spans
        assert {span.name for span in receiver.spans} == set(SHAPE)
