"""The spans of an answer on its instance: made when it is over, from the stamps that were taken."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rondo import tracing

if TYPE_CHECKING:
    from rondo_worker.streams import Answer


def answer_spans(instance_id: str, request_id: str, answer: Answer) -> None:
    """`run`, and in it `turn wait`, `prefill`, `decode` as far as it came; it is over now."""
    run = tracing.begin("run", answer.traceparent, answer.opened_s, tracing.Kind.SERVER)
    if not run:
        return
    end_s = time.monotonic()
    began_s, first_s = answer.began_s, answer.first_s
    if began_s is not None:  # its first step began before we knew of it: both came together
        began_s = max(began_s, answer.opened_s)
    run.child("turn wait", answer.opened_s).end(end_s if began_s is None else began_s)
    if began_s is not None:
        computed = {"rondo.prefill_steps_s": answer.prefill_s}
        run.child("prefill", began_s).end(end_s if first_s is None else first_s, computed)
    if first_s is not None:
        run.child("decode", first_s).end(end_s, {"rondo.tokens": len(answer.tokens)})
    attributes = {
        "rondo.request_id": request_id,
        "rondo.instance_id": instance_id,
        "rondo.finish": answer.finish.value if answer.finish else "unfinished",
    }
    run.end(end_s, attributes, answer.error)
