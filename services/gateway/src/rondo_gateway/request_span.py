"""The span of an HTTP request, the root of what the cluster does for it.

Named and described as OpenTelemetry's conventions for generative AI have it, as far as they go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rondo import tracing
from rondo_gateway.attainment import CANCELLED, COMPLETE
from rondo_gateway.responses import Head, Kind

_OPERATIONS = {
    Kind.CHAT: "chat",
    Kind.TEXT: "text_completion",
    Kind.EMBEDDINGS: "embeddings",
}
#: Ends that are no failure of ours.
_WELL = (*COMPLETE, CANCELLED)


def begin_request(kind: Kind, model: str, traceparent: str, arrival_s: float) -> tracing.Span:
    """Begins it; `traceparent` is the client's, empty if it has none."""
    name = f"{_OPERATIONS[kind]} {model}"
    return tracing.begin(name, traceparent, arrival_s, tracing.Kind.SERVER)


def end_request(
    span: tracing.Span,
    kind: Kind,
    head: Head,
    outcomes: Sequence[str],
    num_tokens: tuple[int, int],
    ledger: Mapping[str, float],
) -> None:
    """Ends it.

    Args:
        outcomes: how each choice ended: a finish reason, `cancelled` or an error's class.
        num_tokens: of prompts and answers.
        ledger: where the time went, in ms.
    """
    prompt_tokens, answer_tokens = num_tokens
    attributes: tracing.Attributes = {
        "gen_ai.operation.name": _OPERATIONS[kind],
        "gen_ai.request.model": head.model,
        "gen_ai.response.id": head.response_id,
        "gen_ai.response.finish_reasons": outcomes,
        "gen_ai.usage.input_tokens": prompt_tokens,
        "gen_ai.usage.output_tokens": answer_tokens,
        **{f"rondo.{name}": value for name, value in ledger.items()},
    }
    problem = next((outcome for outcome in outcomes if outcome not in _WELL), None)
    span.end(attributes=attributes, error=problem)
