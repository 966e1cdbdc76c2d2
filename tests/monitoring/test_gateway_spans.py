"""What a gateway says of a request in its trace, and what it sends along."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from rondo import tracing
from rondo.errors import CapacityError
from rondo.types import FinishReason
from rondo.wire import messages as m
from tests.monitoring.spans import Kept, kept
from tests.support.generations import Result, read
from tests.support.peer import Peer, peer_on


@pytest.fixture
def spans() -> Iterator[Kept]:
    with kept() as recorded:
        yield recorded


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    async with peer_on("memory", tmp_path, max_attempts=3) as made:
        yield made


def attribute(span: ReadableSpan, name: str) -> object:
    return (span.attributes or {})[name]


async def test_an_answer_that_goes_on_elsewhere_is_admitted_twice_in_one_trace(
    spans: Kept, peer: Peer
) -> None:
    root = tracing.begin("root")
    generation = peer.gateway.generation("r", [20, 30], 8, ignore_eos=False, span=root)
    await generation.start()
    await peer.frame(0, 50, 51, 52)
    await peer.frame(3, finish=FinishReason.ERROR, error="out of memory")
    peer.script(lambda: peer.frame(0, 53, finish=FinishReason.STOP, request_id="r~2"))
    await read(generation, Result())
    generation.close()
    root.end()

    admissions = spans.named("admission")
    assert [attribute(span, "rondo.attempt") for span in admissions] == [1, 2]
    assert [attribute(span, "rondo.request_id") for span in admissions] == ["r", "r~2"]
    [whole] = spans.named("root")
    assert {span.parent.span_id for span in admissions if span.parent} == {whole.context.span_id}
    sent = [submit.traceparent.split("-")[2] for submit in peer.to_coordinator.of(m.Submit)]
    assert sent == [f"{span.context.span_id:016x}" for span in admissions]
    assert {run.traceparent for run in peer.to_worker.of(m.Run)} == {root.traceparent}


async def test_a_refusal_is_an_error_of_the_admission(spans: Kept, peer: Peer) -> None:
    peer.reply = m.Rejected(request_id="r", reason="queue_full", detail="no", retry_after_s=1.0)
    root = tracing.begin("root")
    generation = peer.gateway.generation("r", [20, 30], 8, span=root)
    with pytest.raises(CapacityError):
        await generation.start()
    generation.close()
    [admission] = spans.named("admission")
    assert admission.status.status_code is StatusCode.ERROR
    assert admission.status.description == "CapacityError"
    assert generation.outcome == "CapacityError"


async def test_without_a_trace_no_context_is_sent(spans: Kept, peer: Peer) -> None:
    generation, _ = await peer.begin()
    generation.close()
    assert [submit.traceparent for submit in peer.to_coordinator.of(m.Submit)] == [""]
    assert [run.traceparent for run in peer.to_worker.of(m.Run)] == [""]
    assert not spans.all()
