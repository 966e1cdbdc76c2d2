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


def fixed_length(
    count: int, prompt_tokens: int, output_tokens: int, vocab_size: int, seed: int
) -> list[Item]:
    """`count` requests of one length with random ids (never the first 16: specials live there)."""
    rng = random.Random(seed)
    return [
        Item(
            f"bench-{seed}-{index}",
            tuple(rng.randrange(16, vocab_size) for _ in range(prompt_tokens)),
            output_tokens,
        )
        for index in range(count)
    ]
