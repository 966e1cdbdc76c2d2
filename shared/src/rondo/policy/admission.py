"""EcoServe's three admission checks (arXiv 2504.18154, algorithm 1) for one request and instance.

Deviations, each for a hole described in docs/policies.md: the TTFT check bounds the whole turn, so
that its oldest request reaches decode in time; saved TPOT may be judged by a low quantile instead
of the mean; memory is reserved for the predicted answer too; a TPOT limit that the instance cannot
meet even with a single request is replaced by one it can, else nothing would ever be admitted.
"""

from __future__ import annotations

from dataclasses import dataclass

from rondo.policy.view import InstanceView
from rondo.types import RequestInfo

#: An infeasible TPOT limit is taken as this multiple of a lone request's decode step.
INFEASIBLE_TPOT_FACTOR = 1.25


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an instance may take a request, with the predicted time until its decode starts."""

    ok: bool
    predicted_ttft_s: float
    reasons: tuple[str, ...]


def is_hopeless(view: InstanceView, request: RequestInfo, at_s: float) -> bool:
    """Whether even an idle instance of this kind would now miss the request's TTFT limit."""
    return at_s - request.arrival_s + view.prefill_s([request.prompt_tokens]) > request.slo.ttft_s


def slack_s(view: InstanceView, at_s: float, quantile: float | None) -> float | None:
    """Saved TPOT over the requests that decoded before the turn: mean, or a quantile.

    None when nothing decodes, so nothing can be harmed.
    """
    if not view.running:
        return None
    saved = []
    for live in view.running.values():
        alone_s = view.info.latency.decode_s(1, live.info.prompt_tokens)
        limit_s = live.info.slo.tpot_s
        if alone_s > limit_s:
            limit_s = alone_s * INFEASIBLE_TPOT_FACTOR
        saved.append(live.saved_s(view.decode_steps, at_s, limit_s))
    if quantile is None:
        return sum(saved) / len(saved)
    saved.sort()
    return saved[int(quantile * (len(saved) - 1))]


def check(
    view: InstanceView, request: RequestInfo, at_s: float, *, quantile: float | None, late: bool
) -> Verdict:
    """The three checks. `late` waives the request's own TTFT limit, which is missed anyway."""
    prompts = [r.prompt_tokens for r in view.outstanding.values()]
    turn_s = view.prefill_s([*prompts, request.prompt_tokens])
    wait_s = view.switch_wait_s() + turn_s
    ttft_s = at_s - request.arrival_s + wait_s
    failed = _ttft(view, request, at_s, wait_s, late)
    failed = failed or _tpot(view, at_s, turn_s, quantile)
    failed = failed or _memory(view, request)
    if failed:
        return Verdict(False, ttft_s, (f"{view.info.instance_id}: {failed}",))
    return Verdict(True, ttft_s, (f"{view.info.instance_id}: turn of {turn_s:.3f} s fits",))


def _ttft(
    view: InstanceView, request: RequestInfo, at_s: float, wait_s: float, late: bool
) -> str | None:
    if not late and at_s - request.arrival_s + wait_s > request.slo.ttft_s:
        return f"ttft: decode would start in {wait_s:.3f} s"
    mates = [*view.outstanding.values(), *(live.info for live in view.fresh.values())]
    for mate in mates:
        deadline_s = mate.arrival_s + mate.slo.ttft_s
        if at_s < deadline_s < at_s + wait_s:
            return f"ttft: {mate.request_id} of the same turn has {deadline_s - at_s:.3f} s left"
    return None


def _tpot(view: InstanceView, at_s: float, turn_s: float, quantile: float | None) -> str | None:
    saved_s = slack_s(view, at_s, quantile)
    if saved_s is not None and saved_s < turn_s:
        return f"tpot: {saved_s:.3f} s saved, the turn takes {turn_s:.3f} s"
    return None


def _memory(view: InstanceView, request: RequestInfo) -> str | None:
    needed = view.blocks_needed() + view.final_blocks(request)
    if needed > view.info.num_blocks:
        return f"memory: {needed} blocks needed, {view.info.num_blocks} there"
    if view.num_requests >= view.info.max_running:
        return f"slots: all {view.info.max_running} taken"
    return None
