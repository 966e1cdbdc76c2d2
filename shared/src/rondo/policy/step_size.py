"""How many prompt tokens a fused step takes: by the TPOT limit, and by what fusing costs.

A step of N prompt tokens beside n decodes takes longer than the decodes alone by a fixed part and
one that grows with N. Up to about a hundred decodes the fixed part is negative: the step reads the
weights anyway, and prompt tokens ride along. Above, every decode is dearer in a fused step than in
a plain one, so prompts are better taken in groups, several plain steps apart; what the plain steps
saved of the TPOT limit pays for the longer one. That is EcoServe's case for turns (arXiv
2504.18154, section 3), decided step by step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from math import inf

import msgspec

from rondo.policy.view import InstanceView
from rondo.types import Batching, BatchKind, RequestInfo

#: Chunks are multiples of this.
CHUNK_TOKENS = 16
#: A group's tokens take this many times as long as the fixed part of fusing.
GROUP_FACTOR = 6.0
#: A group may spend the saved TPOT that all but this share of the decoding requests have.
SLACK_QUANTILE = 0.02
#: Tokens over which the price of one more is measured.
_PROBE_TOKENS = 256


class StepSize(msgspec.Struct, frozen=True, gc=False):
    """Prompt tokens that a step may take beside `num_riders` decodes.

    `enough` of them make a step worth its fixed cost; 0 where any number does.
    """

    num_riders: int
    tokens: int
    enough: int

    @property
    def batching(self) -> Batching:
        """As a turn says it. Its budget counts decodes too, so it goes on to hold when requests
        begin or end to decode."""
        return Batching(kind=BatchKind.CHUNKED, tokens=self.tokens + self.num_riders)


def size_step(
    view: InstanceView, request: RequestInfo | None, tpot_share: float, at_s: float
) -> StepSize:
    """The step that serves the instance best, with `request` or without.

    Args:
        tpot_share: share of the tightest TPOT limit that a step is planned to take.
    """
    num_riders, context = view.num_riders, view.context_tokens()
    more_s = view.latency.step_s(0, 0, num_riders + 1, context) if num_riders else inf
    longest, limit_s = _tightest(view, request, context, more_s)
    limit_s *= tpot_share
    if num_riders and more_s > limit_s:
        return StepSize(num_riders, 0, 0)  # one more would make every step too long
    tokens = _tokens_within(view, longest, num_riders, context, limit_s)
    enough = _group_tokens(view, num_riders, context) if num_riders else 0
    if enough > tokens:
        saved_s = view.running.slack.quantile_s(SLACK_QUANTILE, view.decode_steps, at_s)
        if 0 < saved_s < inf:
            todo = view.outstanding_tokens + (request.prompt_tokens if request else 0)
            longer_s = limit_s + saved_s / max(1.0, todo / enough)
            more = _tokens_within(view, longest, num_riders, context, longer_s)
            tokens = max(tokens, min(enough, more))
    return StepSize(num_riders, tokens, enough)


def _tightest(
    view: InstanceView, newcomer: RequestInfo | None, context: int, more_s: float
) -> tuple[int, float]:
    """The longest prompt that waits, with the newcomer, and the least TPOT limit of all.

    Args:
        context, more_s: tokens that the decodes have in the cache, and the time of a decode step
            with one request more; a lone request's is no longer.
    """
    longest, limit_s = 0, inf
    if newcomer:
        longest, limit_s = newcomer.prompt_tokens, newcomer.slo.tpot_s
    for request in view.outstanding.values():  # min and max would take as long as all the rest
        if request.prompt_tokens > longest:
            longest = request.prompt_tokens
        if request.slo.tpot_s < limit_s:
            limit_s = request.slo.tpot_s
    if longest > context or more_s > limit_s:  # what they ask for may be more than they can get
        waiting = [*view.outstanding.values(), newcomer] if newcomer else view.outstanding.values()
        limit_s = min([view.feasible_tpot_s(request) for request in waiting], default=inf)
    for live in view.fresh.values():
        if live.tpot_s < limit_s:
            limit_s = live.tpot_s
    return longest, min(limit_s, view.running.slack.least_tpot_s)


def _group_tokens(view: InstanceView, num_riders: int, context: int) -> int:
    """Prompt tokens that are worth a fused step; 0 where its fixed cost is next to nothing."""
    known = view.groups.get(num_riders)
    if known is None:
        known = view.groups[num_riders] = _find_group_tokens(view, num_riders, context)
    return known


def _find_group_tokens(view: InstanceView, num_riders: int, context: int) -> int:
    step_s = view.latency.step_s
    least_s = step_s(1, 1, num_riders, context)
    fixed_s = least_s - step_s(0, 0, num_riders, context)
    if fixed_s <= 0:
        return 0
    token_s = (step_s(_PROBE_TOKENS, _PROBE_TOKENS, num_riders, context) - least_s) / (
        _PROBE_TOKENS - 1
    )
    most = view.info.max_prefill_tokens
    wanted = GROUP_FACTOR * fixed_s / token_s if token_s > 0 else 0.0
    if wanted <= CHUNK_TOKENS:
        return 0
    return min(most, CHUNK_TOKENS * math.ceil(wanted / CHUNK_TOKENS))


def _tokens_within(
    view: InstanceView, longest: int, num_riders: int, context: int, limit_s: float
) -> int:
    """The most prompt tokens, of prompts up to `longest`, in a step of `limit_s`."""
    # Twice the pairs of a chunk at a prompt's end bound those of any chunk of it.
    pairs, step_s = 2 * CHUNK_TOKENS * longest, view.latency.step_s
    most = max(1, view.info.max_prefill_tokens // CHUNK_TOKENS)
    last = view.num_chunks
    if 0 < last < most:  # most often it is as large as the last one
        tokens = last * CHUNK_TOKENS
        if step_s(tokens, last * pairs, num_riders, context) <= limit_s:
            more = tokens + CHUNK_TOKENS
            if step_s(more, (last + 1) * pairs, num_riders, context) > limit_s:
                return tokens

    def chunks_s(count: int) -> float:
        return step_s(count * CHUNK_TOKENS, count * pairs, num_riders, context)

    view.num_chunks = most_within(chunks_s, limit_s, most, min(most, max(1, last)))
    return view.num_chunks * CHUNK_TOKENS


def most_within(cost_s: Callable[[int], float], limit_s: float, most: int, guess: int) -> int:
    """The largest count up to `most` whose cost is within the limit; 0 where that of 1 is not.

    Costs must not fall with the count. The better the guess, the fewer are asked for: two, if it
    is right.
    """
    low, high = 0, most + 1  # within, and beyond
    while True:
        guess_s = cost_s(guess)
        low, high = (guess, high) if guess_s <= limit_s else (low, guess)
        if high - low == 1:
            return low
        beside = guess + 1 if low == guess else guess - 1
        beside_s = cost_s(beside)
        low, high = (beside, high) if beside_s <= limit_s else (low, beside)
        if high - low <= 1:
            return low
        # Costs grow nearly straight: where the line through both meets the limit.
        slope_s = abs(beside_s - guess_s)
        ahead = (limit_s - beside_s) / slope_s if slope_s > 0 else 0.0
        guess = int(min(high - 1, max(low + 1, beside + ahead)))
