"""What a cluster can do at most, and a rough guess of it to start a search from."""

from __future__ import annotations

from collections.abc import Sequence

from rondo.policy.capacity import Lengths, ceiling_rate
from rondo.policy.forecast import Forecast
from rondo_bench.sim.records import Arrival
from rondo_bench.sim.spec import ClusterSpec

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

    See `rondo.policy.capacity`; load is spread evenly. A finite run can pass it by what still waits
    and decodes at its end.
    """
    rate = ceiling_rate(cluster.latency(), mean_lengths(arrivals), cluster.slo.tpot_s)
    return cluster.num_instances * rate


def mean_lengths(arrivals: Sequence[Arrival]) -> Lengths:
    """Means over a workload."""
    num, answers = len(arrivals), sum(a.output_tokens for a in arrivals)
    contexts = (a.output_tokens * (a.prompt_tokens + a.output_tokens / 2) for a in arrivals)
    return Lengths(
        sum(a.prompt_tokens for a in arrivals) / num,
        sum(a.prompt_tokens**2 for a in arrivals) / num,
        answers / num,
        sum(contexts) / answers,
    )
