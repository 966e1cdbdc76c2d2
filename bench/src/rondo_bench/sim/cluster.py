"""The simulator: real policies and real instance schedulers on virtual time.

What is simulated is the engine (a step takes what the latency profile says) and the bus (a message
takes `message_delay_s`); what decides are the very objects that coordinator and workers run. The
same seed gives the same run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rondo.policy import events
from rondo.policy.catalog import make_policy
from rondo.policy.plan import Job
from rondo.types import RequestInfo
from rondo_bench.sim.clock import VirtualClock
from rondo_bench.sim.instance import SimInstance
from rondo_bench.sim.macro import SimMacro
from rondo_bench.sim.moves import KvMover
from rondo_bench.sim.prediction import Predictor
from rondo_bench.sim.records import Arrival, InstanceRecord, RequestRecord, RunRecord
from rondo_bench.sim.spec import ClusterSpec, Fault


class SimCluster:
    """Macro-instances of equal size; requests go to them by turns."""

    def __init__(self, spec: ClusterSpec) -> None:
        self.spec = spec
        self.clock = VirtualClock()
        self._latency = spec.latency()
        self._predictor = Predictor(spec.prediction)
        self._records: dict[str, RequestRecord] = {}
        self._infos: dict[str, RequestInfo] = {}
        self.instances: list[SimInstance] = []
        self._next_macro = 0
        sizes = spec.macro_sizes()
        self.macros = [self._new_macro(f"m{i}", size) for i, size in enumerate(sizes)]
        for macro, size in zip(self.macros, sizes, strict=True):
            for _ in range(size):
                self._join(macro)
        for fault in spec.faults:
            self.clock.at(fault.at_s, self._fault, fault)

    def run(self, arrivals: Sequence[Arrival], seed: int = 0) -> RunRecord:
        """Serves all arrivals to their ends."""
        for arrival in arrivals:
            self._records[arrival.request_id] = RequestRecord(arrival, arrival.slo or self.spec.slo)
            self.clock.at(arrival.at_s, self._arrive, arrival)
        self.clock.run()
        reasons: Counter[str] = Counter()
        for macro in self.macros:
            reasons.update(macro.reasons)
        return RunRecord(
            requests=list(self._records.values()),
            instances=[instance.record for instance in self.instances],
            duration_s=self.clock.now_s,
            reasons=reasons,
            seed=seed,
        )

    # Set-up

    def _new_macro(self, macro_id: str, size: int) -> SimMacro:
        spec, mover = self.spec, None
        if spec.policy == "fudg":
            mover = KvMover(self.clock, spec.links, spec.kv_bytes_per_token())
        return SimMacro(
            macro_id,
            self.clock,
            make_policy(spec.policy, spec.settings_of(size)),
            admitted=self._admitted,
            rejected=self._rejected,
            delay_s=spec.message_delay_s,
            mover=mover,
        )

    def _join(self, macro: SimMacro) -> None:
        spec = self.spec
        instance_id = f"i{len(self.instances)}"
        record = InstanceRecord(instance_id=instance_id, macro_id=macro.macro_id)
        record.joined_s, record.total_blocks = self.clock.now_s, self._latency.num_blocks
        instance = SimInstance(
            self.clock,
            record,
            self._latency,
            spec.max_running,
            spec.max_prefill_tokens,
            report=macro.report,
            closed=macro.closed,
            ended=self._predictor.ended,
            eager=macro.waiting,
            timeline=spec.timeline,
        )
        self.instances.append(instance)
        macro.join(instance)

    # What happens

    def _arrive(self, arrival: Arrival) -> None:
        macro = self.macros[self._next_macro]
        self._next_macro = (self._next_macro + 1) % len(self.macros)
        record = self._records[arrival.request_id]
        info = RequestInfo(
            request_id=arrival.request_id,
            prompt_tokens=arrival.prompt_tokens,
            max_tokens=max(self.spec.answer_limit_tokens, arrival.output_tokens),
            predicted_tokens=self._predictor.predict(arrival),
            slo=record.slo,
            arrival_s=self.clock.now_s,
        )
        self._infos[arrival.request_id] = info
        at_s = self.clock.now_s + self.spec.message_delay_s
        self.clock.at(at_s, macro.arrive, events.RequestArrived(at_s=at_s, request=info))

    def _admitted(self, admit: events.Admit) -> None:
        record = self._records[admit.request_id]
        record.instance_id, record.admitted_s = admit.instance_id, self.clock.now_s
        delay_s = 2 * self.spec.message_delay_s  # to the gateway, and on to the worker
        if delay_s:
            self.clock.at(self.clock.now_s + delay_s, self._send_prompt, admit)
        else:
            self._send_prompt(admit)

    def _send_prompt(self, admit: events.Admit) -> None:
        info, record = self._infos.pop(admit.request_id), self._records[admit.request_id]
        job = Job(
            request_id=info.request_id,
            prompt_tokens=info.prompt_tokens,
            max_tokens=record.arrival.output_tokens,
            predicted_tokens=info.predicted_tokens,
            slo=info.slo,
            arrival_s=info.arrival_s,
        )
        instance = self.instances[int(admit.instance_id[1:])]
        if instance.alive:
            instance.add(job, record)
        else:
            record.lost = True

    def _rejected(self, reject: events.Reject) -> None:
        record = self._records[reject.request_id]
        record.reject_reason, record.rejected_s = reject.reason, self.clock.now_s
        record.retry_after_s = reject.retry_after_s

    def _fault(self, fault: Fault) -> None:
        instance = self.instances[fault.instance]
        if fault.kind == "slow":
            instance.slowness = fault.factor
            return
        instance.alive = False
        instance.record.left_s = self.clock.now_s
        for record in instance.requests.values():
            record.lost = True
        for macro in self.macros:
            macro.leave(instance.info.instance_id)
