"""The admission checks of rolling activation, for one request and one instance.

EcoServe's three (arXiv 2504.18154, algorithm 1) are `paper_check`; what Rondo checks is in `padg`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from rondo.policy.ledger import blocks_for
from rondo.policy.slack import SlackTable
from rondo.policy.view import InstanceView
from rondo.types import Batching, RequestInfo


class Failed(StrEnum):
    """The check that a request did not pass; BUSY: enough prompts wait there already."""

    BUSY = "busy"
    TTFT = "ttft"
    TPOT = "tpot"
    MEMORY = "memory"


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """Whether an instance may take a request, with the predicted time until its decode starts.

    `batching` is how the instance should fill its steps with it, where the checks settled that.
    """

    failed: Failed | None
    predicted_ttft_s: float
    reason: str
    batching: Batching | None = None


def saved_s(slack: SlackTable, quantile: float | None, steps: int, at_s: float) -> float:
    """Saved TPOT that a turn may spend: a quantile, or the mean as the paper counts it.

    The paper's counts the first token too (`SlackTable` does not).
    """
    if quantile is None:
        return slack.mean_s(steps, at_s) + slack.mean_tpot_s
    return slack.quantile_s(quantile, steps, at_s)


def paper_check(
    view: InstanceView, request: RequestInfo, at_s: float, quantile: float | None
) -> Verdict:
    """EcoServe's checks; `quantile` None takes the mean of the saved TPOT, as the paper does.

    Where the paper leaves room, the reading that serves it better was taken: prompts of one turn
    share steps, and the TTFT check knows how long the request has waited already.
    """
    turn_s = view.handed.cost_with_s(request.prompt_tokens)
    ttft_s = at_s - request.arrival_s + view.switch_wait_s() + turn_s
    if ttft_s > request.slo.ttft_s:
        return Verdict(Failed.TTFT, ttft_s, f"turn of {turn_s:.3f} s")
    saved = saved_s(view.running.slack, quantile, view.decode_steps, at_s)
    if saved < turn_s:
        return Verdict(Failed.TPOT, ttft_s, f"{saved:.3f} s saved, turn of {turn_s:.3f} s")
    size = view.info.block_size
    prompts = [*view.outstanding.values(), *view.carry.values(), request]
    needed = view.blocks.used_blocks + sum(blocks_for(r.prompt_tokens, size) for r in prompts)
    return with_memory(view, needed, ttft_s, turn_s)


def with_memory(
    view: InstanceView,
    needed_blocks: int,
    ttft_s: float,
    turn_s: float,
    batching: Batching | None = None,
) -> Verdict:
    """The last check: KV blocks, and a place in the decode batch."""
    if needed_blocks > view.info.num_blocks:
        reason = f"{needed_blocks} of {view.info.num_blocks} KV blocks"
        return Verdict(Failed.MEMORY, ttft_s, reason)
    if view.num_requests >= view.info.max_running:
        return Verdict(Failed.MEMORY, ttft_s, f"all {view.info.max_running} slots are taken")
    return Verdict(None, ttft_s, f"turn of {turn_s:.3f} s fits", batching)
