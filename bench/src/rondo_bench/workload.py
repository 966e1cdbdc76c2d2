"""Prompts for benchmarks: token ids from a seeded generator, so that both sides get the same."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """One request: prompt ids and the exact number of tokens to generate."""

    request_id: str
    prompt: tuple[int, ...]
    output_tokens: int


def spread_lengths(
    count: int, prompt_tokens: int, mean_output_tokens: int, vocab_size: int, seed: int
) -> list[Item]:
    """`count` requests with random ids (never the first 16: specials live there).

    Outputs are uniform from half to one and a half times the mean: with equal ones, concurrent
    clients of a closed loop would all ask at the same moment for ever.
    """
    rng = random.Random(seed)
    return [
        Item(
            f"bench-{seed}-{index}",
            tuple(rng.randrange(16, vocab_size) for _ in range(prompt_tokens)),
            rng.randint(max(1, mean_output_tokens // 2), mean_output_tokens * 3 // 2),
        )
        for index in range(count)
    ]
