"""Chooses the next token of each sequence from its logits, for a whole batch at once.

The order is that of Hugging Face and vLLM: biases and penalties (`sampler_adjust`), temperature,
top-k, top-p, min-p. What is left is renormalised, and one uniform number picks a token by inverting
the cumulative distribution in vocabulary order. That number is a hash of the request's seed and the
token's index, so neither the batch nor the step in which a token is computed changes it. Tokens
whose logits tie with the last one that a filter keeps are kept too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rondo.types import Sampling
from rondo_worker.engines.hashing import uniform
from rondo_worker.engines.torch.sampler_adjust import Allowed, Draw, adjust
from rondo_worker.engines.torch.transfer import to_device

__all__ = ["Allowed", "Draw", "filtered_probabilities", "sample"]

#: Below this temperature the distribution is a single token for every model there is.
GREEDY_TEMPERATURE = 1e-5
#: How many of the best tokens top-p looks at before it ranks the whole vocabulary.
NUCLEUS_TOKENS = 1024


def sample(
    logits: torch.Tensor, draws: Sequence[Draw], allowed: Allowed | None = None
) -> torch.Tensor:
    """Token ids [rows] for logits [rows, vocabulary]; `logits` is left as it was."""
    if allowed is not None or any(_is_adjusted(d) for d in draws):
        logits = adjust(logits, draws, allowed)
    warm = [i for i, d in enumerate(draws) if d.sampling.temperature >= GREEDY_TEMPERATURE]
    if not warm:
        return logits.argmax(-1)
    if len(warm) == len(draws):
        return _draw_tokens(logits.float(), draws)
    tokens = logits.argmax(-1)
    rows = to_device(warm, logits.device)
    tokens[rows] = _draw_tokens(logits[rows].float(), [draws[i] for i in warm])
    return tokens


def filtered_probabilities(logits: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """The distribution that tokens are drawn from, in float32, after temperature and filters.

    logits: float32 [rows, vocabulary], penalties already applied; temperatures above 0.
    """
    heat = _column(logits, [s.temperature for s in samplings])
    # Relative to the maximum, so that a tiny temperature overflows to -inf and never to NaN.
    scores = (logits - logits.amax(-1, keepdim=True)).div_(heat)
    ranked = [i for i, s in enumerate(samplings) if s.top_k > 0 or s.top_p < 1.0]
    if len(ranked) == len(samplings):
        _cut_ranked(scores, samplings)
    elif ranked:
        rows = to_device(ranked, logits.device)
        part = scores[rows]
        _cut_ranked(part, [samplings[i] for i in ranked])
        scores[rows] = part
    if any(s.min_p > 0.0 for s in samplings):
        # p < min_p * p_max; scores are logarithms relative to the maximum, whose score is 0.
        floor = _column(logits, [s.min_p for s in samplings]).log_()
        scores.masked_fill_(scores < floor, float("-inf"))
    return scores.softmax(-1)


def _draw_tokens(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    probabilities = filtered_probabilities(logits, [d.sampling for d in draws])
    # float64: over a large vocabulary the rounding of a float32 sum would favour late tokens.
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    numbers = [uniform(d.sampling.seed, d.index) for d in draws]
    target = to_device(numbers, logits.device, torch.float64).unsqueeze(1)
    target *= cumulative[:, -1:]
    # Strictly above the target, so a token of probability 0 is never found.
    return torch.searchsorted(cumulative, target, right=True).squeeze(1)


def _cut_ranked(scores: torch.Tensor, samplings: Sequence[Sampling]) -> None:
    """Sets to -inf, in place, what top-k and top-p remove.

    Ranking a whole vocabulary is dear and top-p seldom needs it: first it is tried with the
    best few, and if they do not hold the mass that some row asks for, again with all. On a GPU,
    where ranking is cheap and asking costs a synchronisation, all are ranked at once.
    """
    size = scores.shape[-1]
    few = size if scores.is_cuda else min(NUCLEUS_TOKENS, size)
    for most in dict.fromkeys((few, size)):
        limits = [min(s.top_k, size) if s.top_k > 0 else most for s in samplings]
        lowest = _lowest_kept(scores, samplings, limits)
        if lowest is not None:
            scores.masked_fill_(scores < lowest, float("-inf"))
            return


def _lowest_kept(
    scores: torch.Tensor, samplings: Sequence[Sampling], limits: Sequence[int]
) -> torch.Tensor | None:
    """The lowest score [rows, 1] that stays; None when `limits` best are too few to tell."""
    ranked = scores.topk(max(limits), dim=-1).values
    ranks = torch.arange(ranked.shape[-1], device=scores.device)
    outside = ranks >= to_device(limits, scores.device).unsqueeze(1)
    ranked = ranked.masked_fill(outside, float("-inf"))
    # Top-p counts what top-k left; without top-k, the whole vocabulary.
    has_top_k = to_device([s.top_k > 0 for s in samplings], scores.device).unsqueeze(1)
    total = torch.where(
        has_top_k, ranked.logsumexp(-1, keepdim=True), scores.logsumexp(-1, keepdim=True)
    )
    mass = (ranked - total).exp_()
    reached = mass.cumsum(-1)
    # Rounding may carry the sum beyond 1, which must not cut anything when top-p is off.
    top_p = _column(scores, [s.top_p if s.top_p < 1.0 else float("inf") for s in samplings])
    partial = any(
        s.top_k == 0 and limit < scores.shape[-1]
        for s, limit in zip(samplings, limits, strict=True)
    )
    if partial and not bool((has_top_k | (reached[:, -1:] >= top_p)).all()):
        return None
    outside |= reached - mass >= top_p
    outside[:, 0] = False
    return ranked.masked_fill(outside, float("inf")).amin(-1, keepdim=True)


def _is_adjusted(draw: Draw) -> bool:
    sampling = draw.sampling
    return (
        sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
        or sampling.repetition_penalty != 1.0
        or bool(sampling.logit_bias)
        or bool(draw.banned)
    )


def _column(like: torch.Tensor, values: Sequence[float]) -> torch.Tensor:
    return to_device(values, like.device, torch.float32).unsqueeze(1)
