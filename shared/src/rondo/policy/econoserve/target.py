"""How many tokens a step should have: as few as keep the engine busy."""

from __future__ import annotations

from typing import NamedTuple

from rondo.types import LatencyModel

#: Of the best: what counts as near it.
NEAR_SHARE = 0.9
#: Sizes are tried in such steps.
GRAIN_TOKENS = 16
#: Of the target: what prompts get at least, however many requests decode.
LEAST_SHARE = 0.25


class Target(NamedTuple):
    """Sizes of steps: `beside` decodes, and where prompts are `many`; 0: nobody knows."""

    beside: int
    many: int


def forward_tokens(cost: LatencyModel, most_tokens: int) -> Target:
    """The sizes for an engine.

    A step of decodes leaves arithmetic idle, so that some prompt tokens are nearly free; how many
    is where the most of them come for the time that they add. Where prompts are many, and where all
    tokens cost the same, it is the smallest step whose rate of tokens is near the best.
    """
    sizes: list[int] = [*range(GRAIN_TOKENS, most_tokens, GRAIN_TOKENS), most_tokens]
    times_s: list[float] = [max(cost.step_s(size, size * size, 0, 0), 1e-9) for size in sizes]
    rates = [size / each_s for size, each_s in zip(sizes, times_s, strict=True)]
    count = 1 + next(i for i, rate in enumerate(rates) if rate >= NEAR_SHARE * max(rates))
    base_s = cost.step_s(1, 1, 0, 0)
    gains = [sizes[i] / max(times_s[i] - base_s, 1e-9) for i in range(count)]
    beside = max(sizes[i] for i in range(count) if gains[i] >= NEAR_SHARE * max(gains))
    return Target(beside, sizes[count - 1])


def make_target(wanted: int, cost: LatencyModel | None, most_tokens: int) -> Target:
    """What was `wanted`, or, if that is 0, what the latency model says."""
    if not wanted and cost:
        return forward_tokens(cost, most_tokens)
    return Target(min(wanted, most_tokens), min(wanted, most_tokens))


def prompt_budget(target_tokens: int, num_decodes: int) -> int:
    """Prompt tokens beside so many decodes."""
    return max(target_tokens - num_decodes, int(LEAST_SHARE * target_tokens), 1)
