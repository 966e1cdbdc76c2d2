"""The simulated side: the same cluster and requests on virtual time."""

from __future__ import annotations

from collections.abc import Sequence

from rondo.types import Slo
from rondo_bench.parity.cases import Setup
from rondo_bench.parity.compare import MISSED, Served, served
from rondo_bench.sim.cluster import SimCluster
from rondo_bench.sim.records import Arrival, RequestRecord
from rondo_bench.sim.spec import ClusterSpec


def run_simulated(
    setup: Setup, arrivals: Sequence[Arrival], slo: Slo, seed: int, *, hop_s: float, http_s: float
) -> list[Served]:
    """What becomes of each arrival, in order.

    Every request says `ignore_eos`, so the gateway knows its exact length: so does the simulator.
    A message on the bus takes `hop_s`, and so does the one that brings a token to the gateway.
    The simulator knows neither client nor HTTP: `http_s` is added to each TTFT.
    """
    spec = ClusterSpec(
        profile=setup.profile,
        policy=setup.policy,
        num_instances=setup.num_instances,
        slo=slo,
        cpu_ms=setup.profile.cpu_ms,
        answer_limit_tokens=1,  # max_tokens is the answer's own length
        prediction="exact",
        message_delay_s=hop_s,
    )
    records = SimCluster(spec).run(arrivals, seed).requests
    return [_seen(record, hop_s, http_s) for record in records]


def _seen(record: RequestRecord, hop_s: float, http_s: float) -> Served:
    first_s, last_s = record.first_token_s, record.last_token_s
    if not record.completed or first_s is None or last_s is None:
        return MISSED
    way_s = hop_s + http_s
    return served(record.arrival.at_s, first_s + way_s, last_s + way_s, record.tokens_out)
