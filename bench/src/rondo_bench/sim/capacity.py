"""What a cluster can do at most, and a rough guess of it to start a search from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rondo.policy.forecast import Forecast
from rondo_bench.sim.records import Arrival
from rondo_bench.sim.spec import ClusterSpec

#: Plain decode steps between two steps that take prompts, as `ceiling` tries them.
PLAIN_STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128)
#: Decodes are taken to share steps in batches of this size.
BATCH = 32


def rough_capacity(cluster: ClusterSpec, arrivals: Sequence[Arrival]) -> float:
    """Requests per second if prefill and decode were done apart and nobody waited for anything."""
    latency = cluster.latency()
    prompt = sum(a.prompt_tokens for a in arrivals) / len(arrivals)
    answer = sum(a.output_tokens for a in arrivals) / len(arrivals)
    prefill_s = Forecast(latency, cluster.max_prefill_tokens).cost_with_s(round(prompt))
    context = round(BATCH * (prompt + answer / 2))
    decode_s = latency.step_s(0, 0, BATCH, context) / BATCH * answer
    return cluster.num_instances / (prefill_s + decode_s)


def ceiling(cluster: ClusterSpec, arrivals: Sequence[Arrival]) -> float:
    """Requests per second that no schedule can exceed for long if requests decode where they were
    prefilled; one that moves KV can.

    Every instance repeats one cycle: a step that takes all prompts of the cycle, fused or by
    itself, and k plain decode steps, such that the mean time per token is the TPOT limit. Lengths
    are at their means, KV memory and TTFT have no limit, and load is spread evenly; the best k
    counts. A finite run can pass it by what still waits and decodes at its end.
    """
    cycles = [(k, fused) for k in PLAIN_STEPS for fused in (True, False) if k or fused]
    mean = _Mean.of(arrivals)
    return cluster.num_instances * max(_cycle_rate(cluster, mean, k, fused) for k, fused in cycles)


@dataclass(frozen=True, slots=True)
class _Mean:
    """Means over requests: prompt and answer tokens, the prompt's square, and the context of a
    decoded token."""

    prompt: float
    prompt_squared: float
    answer: float
    context: float

    @classmethod
    def of(cls, arrivals: Sequence[Arrival]) -> _Mean:
        num, answers = len(arrivals), sum(a.output_tokens for a in arrivals)
        contexts = (a.output_tokens * (a.prompt_tokens + a.output_tokens / 2) for a in arrivals)
        return cls(
            sum(a.prompt_tokens for a in arrivals) / num,
            sum(a.prompt_tokens**2 for a in arrivals) / num,
            answers / num,
            sum(contexts) / answers,
        )


def _cycle_rate(cluster: ClusterSpec, mean: _Mean, num_plain: int, fused: bool) -> float:
    """The rate at which a cycle of one instance takes just the time it may, by bisection."""
    step_s, limit_s = cluster.latency().step_s, cluster.slo.tpot_s
    cycle_s = (num_plain + fused) * limit_s
    low, high = 0.0, 1e4
    for _ in range(50):
        rate = (low + high) / 2
        decodes = max(1, round(rate * mean.answer * limit_s))
        context = round(decodes * mean.context)
        prompts, pairs = rate * mean.prompt * cycle_s, rate * mean.prompt_squared * cycle_s
        riders = (decodes, context) if fused else (0, 0)
        taken_s = num_plain * step_s(0, 0, decodes, context)
        taken_s += step_s(max(1, round(prompts)), round(pairs), *riders)
        low, high = (rate, high) if taken_s <= cycle_s else (low, rate)
    return low
