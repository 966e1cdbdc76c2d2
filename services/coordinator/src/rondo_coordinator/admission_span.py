"""The span of an admission: from the first time that it was asked for to the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from rondo import tracing
from rondo.wire import messages as m

Respond = Callable[[m.Message], Awaitable[None]]


class TracedReply:
    """Answers a `Submit`, and ends the span with what the answer says."""

    def __init__(self, respond: Respond, span: tracing.Span) -> None:
        self._respond = respond
        self.span = span

    def __call__(self, answer: m.Message) -> Awaitable[None]:
        """Sends the answer."""
        match answer:
            case m.Admitted():
                attributes: tracing.Attributes = {
                    "rondo.request_id": answer.request_id,
                    "rondo.instance_id": answer.instance_id,
                    "rondo.epoch": answer.epoch,
                    "rondo.turn": answer.turn,
                    "rondo.predicted_ttft_s": answer.predicted_ttft_s,
                    "rondo.predicted_tpot_s": answer.predicted_tpot_s,
                    "rondo.reasons": answer.reasons,
                }
                self.span.end(attributes=attributes)
            case m.Rejected():
                attributes = {
                    "rondo.request_id": answer.request_id,
                    "rondo.refusal": answer.reason,
                    "rondo.detail": answer.detail,
                }
                self.span.end(attributes=attributes, error=answer.reason)
        return self._respond(answer)


def traced(respond: Respond, traceparent: str, earlier: Respond | None) -> Respond:
    """`respond` with a span below `traceparent`; one that was asked for again goes on."""
    if isinstance(earlier, TracedReply):
        return TracedReply(respond, earlier.span)
    span = tracing.begin("admit", traceparent, kind=tracing.Kind.SERVER)
    return TracedReply(respond, span) if span else respond
