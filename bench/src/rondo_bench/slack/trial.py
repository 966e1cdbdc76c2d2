"""One simulated run of online requests, with or without a backlog of background ones.

Both runs of a seed are offered the same online requests at the same instants. Answer lengths are
told as they will be: a running mean would be another one beside a batch, and what is compared is
the batch alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from rondo.policy.macro import MacroState
from rondo_bench.sim.cluster import SimCluster
from rondo_bench.sim.records import Arrival
from rondo_bench.sim.spec import ClusterSpec
from rondo_bench.sim.workload import WorkloadSpec, make_workload

#: The backlog's lengths are drawn with another seed than the online ones.
BACKLOG_SEED = 10_000
#: All lines of the backlog come in the first instant.
BACKLOG_RATE = 1e9


@dataclass(frozen=True, slots=True)
class Trial:
    """What to run: `num_lines` is the size of the backlog, 0 for none."""

    spec: ClusterSpec
    online: WorkloadSpec
    num_lines: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the online requests, and what the backlog got until the last of them came.

    `tokens` are all that were computed for the backlog, prompts included; `answer_tokens` those of
    lines that were complete by then. `dry`: the backlog was not enough.
    """

    ttft_s: list[float]
    tpot_s: list[float]
    num_offered: int
    num_good: int
    window_s: float
    tokens: int
    answer_tokens: int
    num_lines_done: int
    dry: bool


class _Window:
    """Takes the count when the last online request comes, and ends the backlog."""

    def __init__(self, cluster: SimCluster, backlog: Sequence[Arrival]) -> None:
        self._cluster = cluster
        self._backlog = backlog
        self.tokens = self.answer_tokens = self.num_lines_done = 0
        self.dry = False

    def close(self, _: object) -> None:
        cluster = self._cluster
        self.tokens = sum(i.record.background_tokens for i in cluster.instances)
        ids = {line.request_id for line in self._backlog}
        done = [r for r in cluster.records() if r.arrival.request_id in ids and r.completed]
        self.num_lines_done = len(done)
        self.answer_tokens = sum(record.tokens_out for record in done)
        self.dry = bool(ids) and len(done) == len(ids)
        for macro in cluster.macros.values():
            assert isinstance(macro.policy, MacroState)
            macro.policy.background.pending.clear()
        for instance in cluster.instances:
            for job in list(instance.scheduler.board.jobs.values()):
                if job.background:
                    instance.cancel(job.request_id)


def run_trial(trial: Trial) -> Outcome:
    """Runs it to the end of the last online request."""
    online = make_workload(trial.online)
    backlog: list[Arrival] = []
    if trial.num_lines:
        lines = msgspec.structs.replace(
            trial.online,
            rate=BACKLOG_RATE,
            num_requests=trial.num_lines,
            seed=trial.online.seed + BACKLOG_SEED,
        )
        backlog = [
            msgspec.structs.replace(a, request_id=f"line-{a.request_id}", background=True)
            for a in make_workload(lines)
        ]
    cluster = SimCluster(trial.spec)
    window, window_s = _Window(cluster, backlog), online[-1].at_s
    cluster.clock.at(window_s, window.close)
    run = cluster.run([*backlog, *online])
    records = [record for record in run.requests if not record.arrival.background]
    ttft_s = [record.ttft_s for record in records]
    tpot_s = [record.tpot_s for record in records if record.tokens_out > 1]
    return Outcome(
        ttft_s=[value for value in ttft_s if value is not None],
        tpot_s=[value for value in tpot_s if value is not None],
        num_offered=len(records),
        num_good=sum(record.meets_slo for record in records),
        window_s=window_s,
        tokens=window.tokens,
        answer_tokens=window.answer_tokens,
        num_lines_done=window.num_lines_done,
        dry=window.dry,
    )
