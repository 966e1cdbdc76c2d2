"""A rough capacity of a cluster, to know where a search for its goodput should start."""

from __future__ import annotations

from collections.abc import Sequence

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
