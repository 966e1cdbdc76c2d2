"""The load client's pieces without I/O: events, bodies, and what an outcome counts as."""

from __future__ import annotations

import json

import pytest

from rondo.metrics.lifecycle import Lifecycle
from rondo.types import Slo
from rondo_bench.load.events import BadEvent, EventReader
from rondo_bench.load.outcomes import Ending, Outcome
from rondo_bench.load.prompts import BodyShape
from rondo_bench.sim.records import Arrival

SLO = Slo(ttft_s=1.0, tpot_s=0.1)
STREAM = (
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"a"}}]}\r\n\r\n'
    b": a comment\n"
    b'data:{"choices":[{"text":"b","finish_reason":null}],"usage":null}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"completion_tokens":7}}\n\n'
    b"data: [DONE]\n\n"
)


def arrival(prompt_tokens: int = 5, output_tokens: int = 7, slo: Slo | None = None) -> Arrival:
    return Arrival(
        request_id="r0",
        at_s=1.0,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        slo=slo,
    )


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_a_stream_reads_the_same_however_it_is_cut(size: int) -> None:
    reader = EventReader()
    count = sum(reader.feed(STREAM[i : i + size]) for i in range(0, len(STREAM), size))
    assert (count, reader.num_tokens, reader.finished, reader.done) == (2, 7, True, True)
    assert reader.error is None


def test_an_error_event_is_an_error() -> None:
    reader = EventReader()
    assert reader.feed(b'data: {"error":{"message":"engine lost","code":500}}\n\n') == 0
    assert (reader.error, reader.done) == ("engine lost", False)


def test_what_is_no_event_is_said() -> None:
    with pytest.raises(BadEvent, match="<html>"):
        EventReader().feed(b"data: <html>\n\n")


def test_prompts_depend_on_seed_and_index_only() -> None:
    shape = BodyShape(model="m")
    first, again, other = (json.loads(shape.body(arrival(), SLO, 3, i)) for i in (0, 0, 1))
    assert first == again
    assert len(first["prompt"]) == 5
    assert first["prompt"] != other["prompt"]
    assert "slo" not in first


def test_objectives_are_sent_where_they_are_understood() -> None:
    shape = BodyShape(model="m", chat=True, send_slo=True, extensions=False)
    body = json.loads(shape.body(arrival(slo=Slo(ttft_s=2.0, tpot_s=0.05)), SLO, 0, 0))
    assert body["slo"] == {"ttft_ms": 2000.0, "tpot_ms": 50.0}
    assert len(body["messages"][0]["content"].split()) == 5
    assert "ignore_eos" not in body
    assert shape.path == "/v1/chat/completions"


def test_latencies_count_from_when_a_request_was_due() -> None:
    outcome = Outcome(arrival(), Lifecycle(1.0), sent_s=1.2, ended_s=2.5, ending=Ending.COMPLETED)
    for at_s in (1.5, 1.9, 2.3):
        outcome.times.tokens(1, at_s)
    assert outcome.ttft_s == pytest.approx(0.5)
    assert outcome.tpot_s == pytest.approx(0.4)
    assert outcome.late_s == pytest.approx(0.2)
    assert outcome.e2e_s == pytest.approx(1.5)
    assert outcome.meets(Slo(ttft_s=0.6, tpot_s=0.5))
    assert not outcome.meets(Slo(ttft_s=0.4, tpot_s=0.5))
    assert not outcome.meets(Slo(ttft_s=0.6, tpot_s=0.3))


@pytest.mark.parametrize("ending", [one for one in Ending if one is not Ending.COMPLETED])
def test_what_did_not_complete_misses_every_objective(ending: Ending) -> None:
    outcome = Outcome(arrival(), Lifecycle(1.0), ending=ending)
    outcome.times.tokens(1, 1.1)
    assert (outcome.ttft_s, outcome.tpot_s, outcome.e2e_s) == (None, None, None)
    assert not outcome.meets(Slo(ttft_s=100.0, tpot_s=100.0))
    assert ending.is_failure is (ending is not Ending.REFUSED)
