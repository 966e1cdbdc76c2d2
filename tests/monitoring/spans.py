"""Spans of this process, kept in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rondo import tracing
from rondo.tracing_otel import OtelRecorder


class Kept(InMemorySpanExporter):
    """What was recorded so far, the earliest end first."""

    def __init__(self) -> None:
        super().__init__()
        self.recorder = OtelRecorder("test", "t0", self)

    def all(self) -> list[ReadableSpan]:
        self.recorder.flush()
        return list(self.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]


@contextmanager
def kept() -> Iterator[Kept]:
    spans = Kept()
    tracing.set_recorder(spans.recorder)
    try:
        yield spans
    finally:
        tracing.stop()
