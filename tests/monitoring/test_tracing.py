"""Spans within the programs: what begins them, what ends them, and nothing while they are off."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from opentelemetry.trace import StatusCode

from rondo import tracing
from rondo.errors import ConfigError
from rondo.policy.plan import NewToken
from rondo.types import FinishReason, Slo
from rondo.wire import messages as m
from rondo.wire.codec import decode, encode
from rondo_coordinator.admission_span import traced
from rondo_worker.streams import TokenStreams
from tests.monitoring.spans import Kept, kept

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def spans() -> Iterator[Kept]:
    with kept() as recorded:
        yield recorded


def submit(traceparent: str = "") -> m.Submit:
    return m.Submit(
        request_id="r",
        gateway_id="g",
        prompt_tokens=1,
        max_tokens=1,
        predicted_tokens=1,
        slo=Slo(ttft_s=1, tpot_s=1),
        age_s=0.0,
        traceparent=traceparent,
    )


def admitted(request_id: str = "r") -> m.Admitted:
    return m.Admitted(
        request_id=request_id,
        instance_id="w0",
        epoch=3,
        turn=7,
        predicted_ttft_s=0.5,
        predicted_tpot_s=0.05,
        reasons=("w0: turn of 0.1 s fits",),
    )


class Replies:
    """The bus's side of a request."""

    def __init__(self) -> None:
        self.sent: list[m.Message] = []

    async def __call__(self, answer: m.Message) -> None:
        self.sent.append(answer)


def test_while_off_nothing_is_begun_and_nothing_is_imported() -> None:
    span = tracing.begin("a", PARENT)
    assert span is tracing.NOTHING
    assert span.child("b") is span
    assert not span
    assert span.traceparent == ""
    code = "import sys, rondo_coordinator.__main__; print('opentelemetry.sdk' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"


def test_while_off_nothing_travels() -> None:
    data = encode(submit())
    assert b"traceparent" not in data
    assert decode(data) == submit()
    assert decode(encode(submit(traceparent=PARENT))) == submit(traceparent=PARENT)


def test_a_span_lasts_as_long_as_its_instants_say(spans: Kept) -> None:
    now_s = time.monotonic()
    root = tracing.begin("root", began_s=now_s - 3.0)
    root.child("part", now_s - 2.0).end(now_s - 1.5, {"a": 1})
    root.end(now_s - 1.0)
    root.end(now_s)  # the first end counts
    part, whole = spans.all()
    assert (part.end_time or 0) - (part.start_time or 0) == pytest.approx(0.5e9, abs=2e3)
    assert (whole.end_time or 0) - (whole.start_time or 0) == pytest.approx(2e9, abs=2e3)
    assert (part.start_time or 0) - (whole.start_time or 0) == pytest.approx(1e9, abs=2e3)
    assert abs((whole.end_time or 0) / 1e9 - (time.time() - 1.0)) < 0.5
    assert part.attributes == {"a": 1}


@pytest.mark.parametrize("context", ["", "nonsense", "00-0-0-01"])
def test_what_is_no_context_begins_a_trace(spans: Kept, context: str) -> None:
    tracing.begin("root", context).end()
    [root] = spans.all()
    assert root.parent is None


def test_a_trace_that_nobody_wants_is_not_recorded(spans: Kept) -> None:
    assert tracing.begin("run", PARENT[:-1] + "0") is tracing.NOTHING


async def test_an_admission_lasts_from_the_first_question_to_the_answer(spans: Kept) -> None:
    first, second = Replies(), Replies()
    waiting = traced(first, PARENT, None)
    waiting = traced(second, PARENT, waiting)  # the gateway asked again
    await waiting(admitted())
    assert (first.sent, second.sent) == ([], [admitted()])
    [span] = spans.named("admit")
    assert span.parent
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
    assert span.attributes
    assert span.attributes["rondo.instance_id"] == "w0"
    assert span.attributes["rondo.reasons"] == ("w0: turn of 0.1 s fits",)


async def test_a_refusal_is_an_error_of_its_span(spans: Kept) -> None:
    refusal = m.Rejected(request_id="r", reason="overloaded", detail="no", retry_after_s=1.0)
    await traced(Replies(), PARENT, None)(refusal)
    [span] = spans.all()
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "overloaded"


def streams() -> TokenStreams:
    return TokenStreams("w0", lambda subject, message: None)


def token(index: int, finish: FinishReason | None = None) -> tuple[NewToken, ...]:
    return (NewToken("r", index, 5, finish),)


def test_an_answer_leaves_its_spans_when_it_ends(spans: Kept) -> None:
    answers = streams()
    answers.open("r", "g", PARENT)
    began_s = time.monotonic()
    ended_s = time.monotonic()
    answers.prefilled(["r"], began_s, ended_s)
    answers.step(token(0), ended_s)
    answers.step(token(1), ended_s)
    assert not spans.all()
    answers.step(token(2, FinishReason.LENGTH), ended_s)
    names = [span.name for span in spans.all()]
    assert names == ["turn wait", "prefill", "decode", "run"]
    run = spans.named("run")[0]
    assert run.attributes
    assert run.attributes["rondo.finish"] == "length"
    decode_span = spans.named("decode")[0]
    assert decode_span.attributes == {"rondo.tokens": 3}


def test_an_answer_that_never_began_has_waited_to_the_end(spans: Kept) -> None:
    answers = streams()
    answers.open("r", "g", PARENT)
    answers.hand_back("r")
    assert [span.name for span in spans.all()] == ["turn wait", "run"]


def test_an_answer_without_a_context_leaves_no_spans(spans: Kept) -> None:
    answers = streams()
    answers.open("r", "g")
    answers.step(token(0, FinishReason.STOP), 1.0)
    assert not spans.all()


def test_stopping_does_not_wait_for_a_collector_that_is_not_there() -> None:
    class Slow:
        def begin(self, *_: object) -> tracing.Span:
            return tracing.NOTHING

        def close(self) -> None:
            time.sleep(5)

    tracing.set_recorder(Slow())
    began_s = time.monotonic()
    tracing.stop(timeout_s=0.1)
    assert time.monotonic() - began_s < 2
    assert tracing.begin("a") is tracing.NOTHING


def test_without_opentelemetry_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rondo.tracing_otel", None)
    with pytest.raises(ConfigError, match=r"RONDO_TRACES.*rondo\[traces\]"):
        tracing.start("on", "rondo-gateway", "g0")
    tracing.start("off", "rondo-gateway", "g0")
