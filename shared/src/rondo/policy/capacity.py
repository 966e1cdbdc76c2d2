"""What one instance can serve at most, by the closed forms of its steps and the lengths it sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rondo.types import LatencyModel

#: Plain decode steps between two steps that take prompts, as they are tried.
PLAIN_STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128)
_BISECTIONS = 40


@dataclass(frozen=True, slots=True)
class Lengths:
    """Means over requests: prompt and answer tokens, the prompt's square, and the context of a
    decoded token."""

    prompt: float
    prompt_squared: float
    answer: float
    context: float


def ceiling_rate(latency: LatencyModel, lengths: Lengths, tpot_s: float) -> float:
    """Requests/s that no schedule exceeds for long on an instance that prefills what it decodes.

    The instance repeats one cycle: a step that takes all prompts of the cycle, fused or by itself,
    and k plain decode steps, such that the mean time per token is the TPOT limit; the best k
    counts. Lengths are at their means; KV memory and TTFT have no limit.
    """
    cycles = [(k, fused) for k in PLAIN_STEPS for fused in (True, False) if k or fused]
    return max(_cycle_rate(latency, lengths, tpot_s, k, fused) for k, fused in cycles)


def memory_rate(kv_tokens: int, lengths: Lengths, tpot_s: float) -> float:
    """Requests/s whose KV fits, when each holds what it has at its end for as long as it may."""
    return kv_tokens / ((lengths.prompt + lengths.answer) * lengths.answer * tpot_s)


def instance_rate(latency: LatencyModel, kv_tokens: int, lengths: Lengths, tpot_s: float) -> float:
    """Requests/s that one instance can serve: by its steps' durations, and by KV memory."""
    by_steps = ceiling_rate(latency, lengths, tpot_s)
    return min(by_steps, memory_rate(kv_tokens, lengths, tpot_s))


def used_share(rate: float, num_instances: int, rates: Sequence[float]) -> float | None:
    """Share of what `num_instances` can serve that an offered `rate` takes; at most 1.

    Args:
        rates: requests/s that one instance can serve, of each macro-instance that knows it.

    Returns:
        None where nobody knows it, or there is no instance.
    """
    if not rates or not num_instances:
        return None
    able = num_instances * sum(rates) / len(rates)
    return min(1.0, rate / able) if able else 1.0


def _cycle_rate(
    latency: LatencyModel, lengths: Lengths, limit_s: float, num_plain: int, fused: bool
) -> float:
    """The rate at which a cycle takes just the time it may, by bisection."""
    step_s = latency.step_s
    cycle_s = (num_plain + fused) * limit_s
    low, high = 0.0, 1e4
    for _ in range(_BISECTIONS):
        rate = (low + high) / 2
        decodes = max(1, round(rate * lengths.answer * limit_s))
        context = round(decodes * lengths.context)
        prompts = rate * lengths.prompt * cycle_s
        pairs = rate * lengths.prompt_squared * cycle_s
        riders = (decodes, context) if fused else (0, 0)
        taken_s = num_plain * step_s(0, 0, decodes, context)
        taken_s += step_s(max(1, round(prompts)), round(pairs), *riders)
        low, high = (rate, high) if taken_s <= cycle_s else (low, rate)
    return low
