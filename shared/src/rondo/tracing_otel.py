"""Spans recorded with OpenTelemetry and sent as OTLP over HTTP. Only imported when traces are on.

Everything that OpenTelemetry's SDK reads from OTEL_* variables counts: where spans go
(OTEL_EXPORTER_OTLP_ENDPOINT), which traces are kept (OTEL_TRACES_SAMPLER), batches (OTEL_BSP_*).
"""

from __future__ import annotations

import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rondo.errors import ConfigError
from rondo.tracing import NOTHING, Attributes, Kind, Span

_KINDS = {
    Kind.INTERNAL: SpanKind.INTERNAL,
    Kind.SERVER: SpanKind.SERVER,
    Kind.CLIENT: SpanKind.CLIENT,
}
_PROPAGATOR = TraceContextTextMapPropagator()


class OtelRecorder:
    """A tracer of its own for this program; sends in batches from a thread of its own.

    Args:
        exporter: where spans go; by default to where the environment says.

    Raises:
        ConfigError: OpenTelemetry does not understand its settings.
    """

    def __init__(self, program: str, program_id: str, exporter: SpanExporter | None = None) -> None:
        # What the environment says of the resource wins: it was set on purpose.
        known = Resource.create({"service.name": program, "service.instance.id": program_id})
        try:
            self._provider = TracerProvider(
                resource=known.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
            )
            self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        except ValueError as error:
            raise ConfigError("OTEL_*", str(error)) from error
        self._tracer = self._provider.get_tracer("rondo")

    def begin(self, name: str, traceparent: str, began_s: float | None, kind: Kind) -> Span:
        """See rondo.tracing.begin."""
        offset_ns = time.time_ns() - time.monotonic_ns()
        context = _PROPAGATOR.extract({"traceparent": traceparent}) if traceparent else None
        span = self._tracer.start_span(
            name, context, _KINDS[kind], start_time=_wall_ns(began_s, offset_ns)
        )
        return _Recorded(self._tracer, span, offset_ns) if span.is_recording() else NOTHING

    def flush(self) -> None:
        """Sends what was not sent yet, and waits for it."""
        self._provider.force_flush()

    def close(self) -> None:
        """Sends what was not sent yet."""
        self._provider.shutdown()


class _Recorded(Span):
    """A span of OpenTelemetry's. All of a tree go by the same offset, so that they nest exactly
    even when the wall clock is set meanwhile."""

    __slots__ = ("_offset_ns", "_span", "_tracer")

    def __init__(self, tracer: Tracer, span: OtelSpan, offset_ns: int) -> None:
        self._tracer = tracer
        self._span = span
        self._offset_ns = offset_ns

    def __bool__(self) -> bool:
        return True

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def child(self, name: str, began_s: float | None = None, kind: Kind = Kind.INTERNAL) -> Span:
        start_ns = _wall_ns(began_s, self._offset_ns)
        parent = set_span_in_context(self._span)
        span = self._tracer.start_span(name, parent, _KINDS[kind], start_time=start_ns)
        return _Recorded(self._tracer, span, self._offset_ns)

    def end(
        self,
        at_s: float | None = None,
        attributes: Attributes | None = None,
        error: str | None = None,
    ) -> None:
        if not self._span.is_recording():  # it has ended
            return
        if attributes:
            self._span.set_attributes(attributes)
        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end(_wall_ns(at_s, self._offset_ns))


def _wall_ns(at_s: float | None, offset_ns: int) -> int:
    """An instant of time.monotonic, or now, in ns of the wall clock."""
    return offset_ns + (time.monotonic_ns() if at_s is None else round(at_s * 1e9))
