"""One simulated run, judged by its attainment: what a goodput search asks again and again."""

from __future__ import annotations

from rondo_bench.sim.cluster import SimCluster
from rondo_bench.sim.spec import ClusterSpec
from rondo_bench.sim.workload import WorkloadSpec, make_workload


def attainment_of(cluster: ClusterSpec, workload: WorkloadSpec) -> float:
    """Share of the offered requests that meet their SLO."""
    records = SimCluster(cluster).run(make_workload(workload), workload.seed).requests
    return sum(record.meets_slo for record in records) / len(records)
