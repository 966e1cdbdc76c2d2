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
    num_riders = view.num_riders
    longest, limit_s = view.tightest()
    todo = view.outstanding_tokens
    if request is not None:
        longest, todo = max(longest, request.prompt_tokens), todo + request.prompt_tokens
        limit_s = min(limit_s, view.feasible_tpot_s(request))
    limit_s *= tpot_share
    if num_riders and view.latency.step_s(0, 0, num_riders + 1, view.context_tokens()) > limit_s:
        return StepSize(num_riders, 0, 0)  # one more would make every step too long
    tokens = _tokens_within(view, longest, num_riders, limit_s)
    enough = _group_tokens(view, num_riders) if num_riders else 0
    if enough > tokens:
        saved_s = view.running.slack.quantile_s(SLACK_QUANTILE, view.decode_steps, at_s)
        if 0 < saved_s < float("inf"):
            longer_s = limit_s + saved_s / max(1.0, todo / enough)
            tokens = max(tokens, min(enough, _tokens_within(view, longest, num_riders, longer_s)))
    return StepSize(num_riders, tokens, enough)


def _group_tokens(view: InstanceView, num_riders: int) -> int:
    """Prompt tokens that are worth a fused step; 0 where its fixed cost is next to nothing."""
    key = -1, num_riders, 0.0
    known = view.sizes.get(key)
    if known is None:
        known = view.sizes[key] = _find_group_tokens(view, num_riders)
    return known


def _find_group_tokens(view: InstanceView, num_riders: int) -> int:
    step_s, context = view.latency.step_s, view.context_tokens()
    least_s = step_s(1, 1, num_riders, context)
    fixed_s = least_s - step_s(0, 0, num_riders, context)
    token_s = (step_s(_PROBE_TOKENS, _PROBE_TOKENS, num_riders, context) - least_s) / (
        _PROBE_TOKENS - 1
    )
    most = view.info.max_prefill_tokens
    wanted = GROUP_FACTOR * fixed_s / token_s if token_s > 0 else 0.0
    if wanted <= CHUNK_TOKENS:
        return 0
    return min(most, CHUNK_TOKENS * math.ceil(wanted / CHUNK_TOKENS))


def _tokens_within(view: InstanceView, longest: int, num_riders: int, limit_s: float) -> int:
    """The most prompt tokens, of prompts up to `longest`, in a step of `limit_s`."""
    key = longest, num_riders, limit_s
    known = view.sizes.get(key)
    if known is None:
        known = view.sizes[key] = _find_tokens_within(view, longest, num_riders, limit_s)
    return known


def _find_tokens_within(view: InstanceView, longest: int, num_riders: int, limit_s: float) -> int:
    step_s, context = view.latency.step_s, view.context_tokens()
    # Twice the pairs of a chunk at a prompt's end bound those of any chunk of it.
    pairs = 2 * CHUNK_TOKENS * longest

    low, high = 1, max(1, view.info.max_prefill_tokens // CHUNK_TOKENS)
    high_s = step_s(high * CHUNK_TOKENS, high * pairs, num_riders, context)
    if high_s <= limit_s:
        return high * CHUNK_TOKENS
    low_s = step_s(CHUNK_TOKENS, pairs, num_riders, context)
    if low_s > limit_s:
        return 0
    while high - low > 1:  # durations grow nearly straight: aim, and look one beyond
        share = (limit_s - low_s) / (high_s - low_s)
        guess = min(high - 1, max(low + 1, low + int(share * (high - low))))
        guess_s = step_s(guess * CHUNK_TOKENS, guess * pairs, num_riders, context)
        if guess_s > limit_s:
            high, high_s = guess, guess_s
            continue
        low, low_s = guess, guess_s
        if low + 1 < high:
            next_s = step_s((low + 1) * CHUNK_TOKENS, (low + 1) * pairs, num_riders, context)
            if next_s > limit_s:
                high, high_s = low + 1, next_s
    return low * CHUNK_TOKENS
