"""How fast decisions and the simulator are: one core, medians."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import msgspec

from rondo.policy import events
from rondo.policy.catalog import make_policy
from rondo.policy.events import MacroScheduler
from rondo_bench.experiments.cases import Folders, dataset
from rondo_bench.experiments.search import Record
from rondo_bench.experiments.sweeps import cluster_of
from rondo_bench.sim.cluster import SimCluster
from rondo_bench.sim.workload import make_workload
from rondo_bench.sim.wrapped import WrappedPolicy

NUM_INSTANCES = 11


class _Timed(WrappedPolicy):
    """A policy whose decisions on arrivals are timed."""

    def __init__(self, policy: MacroScheduler) -> None:
        super().__init__(policy)
        self.admissions_s: list[float] = []

    def handle(self, event: events.Event) -> events.Decision:
        """Decides, and notes how long that took."""
        start_s = time.perf_counter()
        decision = self.policy.handle(event)
        if isinstance(event, events.RequestArrived):
            self.admissions_s.append(time.perf_counter() - start_s)
        return decision


def run_speed(folders: Folders, say: Callable[[str], None]) -> list[Record]:
    """Admission at 11 instances, under load and under overload; ten minutes of eight instances."""
    lengths = str(folders.lengths)
    records: list[Record] = []
    for what, share in (("loaded", 0.8), ("overloaded", 1.5)):
        times_s = admission_times_s(lengths, 31.0 * NUM_INSTANCES / 8 * share)
        for name, value in (
            ("median", median(times_s)),
            ("p99", sorted(times_s)[int(0.99 * len(times_s))]),
        ):
            record = {
                "what": f"admission decision, padg, {NUM_INSTANCES} instances, {what}, {name}",
                "value": round(value * 1e6, 1),
                "unit": "us",
                "command": "rondo-bench experiment speed",
            }
            records.append(record)
            say(str(record))
    offered = dataset("sharegpt").offered(lengths, rate=30.0)
    arrivals = make_workload(msgspec.structs.replace(offered, num_requests=18_000))
    start_s = time.process_time()
    SimCluster(cluster_of("sharegpt", "padg")).run(arrivals)
    record = {
        "what": "8 instances, ShareGPT at 30 requests/s, 10 minutes: CPU time",
        "value": round(time.process_time() - start_s, 1),
        "unit": "s",
        "command": "rondo-bench experiment speed",
    }
    say(str(record))
    return [*records, record]


def admission_times_s(lengths: str, rate: float) -> list[float]:
    """Seconds of each admission decision, with the time that the clock itself takes."""
    cluster = SimCluster(cluster_of("sharegpt", "padg", NUM_INSTANCES))
    [macro] = cluster.macros.values()
    timed = _Timed(make_policy("padg"))
    for instance in list(macro.instances.values()):
        macro.leave(instance.info.instance_id)
    macro.policy = timed
    for instance in cluster.instances:
        macro.join(instance)
    cluster.run(make_workload(dataset("sharegpt").offered(lengths, rate)))
    return timed.admissions_s
