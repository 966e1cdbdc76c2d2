"""What the predictor sees of a request: hashed runs of tokens, and two numbers.

Training and serving share this file: a change here is another format (`model_file.VERSION`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

#: A longer prompt is seen by so many tokens of its beginning and of its end: a bounded cost.
HEAD_TOKENS = 256
TAIL_TOKENS = 768
#: Bags of runs: of the whole prompt, and of what stands at its end, mostly the question.
NUM_BAGS = 2
#: log(1 + tokens of the prompt), log(1 + max_tokens).
NUM_NUMBERS = 2

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_SHIFT = np.uint64(32)

Buckets = npt.NDArray[np.int64]


def bags(prompt: Sequence[int], orders: int, num_buckets: int, recent: int) -> list[Buckets]:
    """For each bag the buckets, below `num_buckets`, of all runs of 1 to `orders` tokens.

    Args:
        prompt: token ids, at least one.
        recent: the second bag holds the last `recent` tokens.
    """
    if len(prompt) > HEAD_TOKENS + TAIL_TOKENS:
        prompt = [*prompt[:HEAD_TOKENS], *prompt[-TAIL_TOKENS:]]
    tokens = np.array(prompt, dtype=np.uint64) + np.uint64(1)
    return [_runs(part, orders, num_buckets) for part in (tokens, tokens[-recent:])]


def numbers(prompt_tokens: int, max_tokens: int) -> npt.NDArray[np.float32]:
    """The two numbers, shape [2]."""
    return np.log1p(np.array((prompt_tokens, max_tokens), dtype=np.float32))


def _runs(tokens: npt.NDArray[np.uint64], orders: int, num_buckets: int) -> Buckets:
    found, hashes = [], tokens
    for order in range(orders):
        if order:  # a run and the token behind it
            hashes = hashes[:-1] * _STEP + tokens[order:]
        if hashes.size:
            mixed = (hashes + np.uint64(order)) * _MIX
            mixed = (mixed ^ (mixed >> _SHIFT)) * _MIX
            found.append((mixed >> _SHIFT) % np.uint64(num_buckets))
    return np.concatenate(found).astype(np.int64)
