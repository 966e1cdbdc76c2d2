"""The simulator: real policies and real instance schedulers on virtual time.

What is simulated is the engine (a step takes what the latency profile says) and the bus (a message
takes `message_delay_s`); what decides are the very objects that coordinator and workers run. The
same seed gives the same run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rondo.policy import events
from rondo.policy.catalog import make_policy
from rondo.policy.econoserve import make_instance_policy
from rondo.policy.overall import OverallScheduler
from rondo.policy.plan import Job
from rondo.types import RequestInfo
from rondo_bench.sim.clock import VirtualClock
from rondo_bench.sim.instance import SimInstance
from rondo_bench.sim.macro import SimMacro
from rondo_bench.sim.moves import KvMover
from rondo_bench.sim.prediction import Predictor
from rondo_bench.sim.records import Arrival, InstanceRecord, RequestRecord, RunRecord
from rondo_bench.sim.spec import ClusterSpec, Fault

#: How old the summaries may be that requests are routed by.
SUMMARY_S = 0.1


class SimCluster:
    """Macro-instances and their instances; an overall scheduler routes between them."""

    def __init__(self, spec: ClusterSpec) -> None:
        self.spec = spec
        self.clock = VirtualClock()
        self._latency = spec.latency()
        self._predictor = Predictor(spec.prediction)
        self._records: dict[str, RequestRecord] = {}
        self._infos: dict[str, RequestInfo] = {}
        self.instances: list[SimInstance] = []
        self.macros: dict[str, SimMacro] = {}
        self.num_refused = 0
        self._gone_reasons: Counter[str] = Counter()
        self._overall = OverallScheduler()
        self._summed_s = float("-inf")
        for number, size in enumerate(spec.macro_sizes()):
            macro = self.add_macro(f"m{number}", size)
            for _ in range(size):
                macro.join(self.add_instance(macro.macro_id))
        for fault in spec.faults:
            self.clock.at(fault.at_s, self._fault, fault)

    def run(self, arrivals: Sequence[Arrival], seed: int = 0) -> RunRecord:
        """Serves all arrivals to their ends."""
        for arrival in arrivals:
            self._records[arrival.request_id] = RequestRecord(arrival, arrival.slo or self.spec.slo)
            self.clock.at(arrival.at_s, self._arrive, arrival)
        self.clock.run()
        reasons = Counter(self._gone_reasons)
        for macro in self.macros.values():
            reasons.update(macro.reasons)
        return RunRecord(
            requests=list(self._records.values()),
            instances=[instance.record for instance in self.instances],
            duration_s=self.clock.now_s,
            reasons=reasons,
            seed=seed,
        )

    def records(self) -> Iterable[RequestRecord]:
        """All requests of the run so far, in order of arrival."""
        return self._records.values()

    # Set-up

    def add_macro(self, macro_id: str, size: int) -> SimMacro:
        """A macro-instance without instances; `size` is how many it will have."""
        spec, mover = self.spec, None
        if spec.policy == "fudg":
            mover = KvMover(self.clock, spec.links, spec.kv_bytes_per_token())
        self.macros[macro_id] = macro = SimMacro(
            macro_id,
            self.clock,
            make_policy(spec.policy, spec.settings_of(size)),
            admitted=self._admitted,
            rejected=self._rejected,
            delay_s=spec.message_delay_s,
            mover=mover,
        )
        return macro

    def remove_macro(self, macro_id: str) -> None:
        """A macro-instance without instances goes; what waits there asks the others."""
        macro = self.macros.pop(macro_id)
        self._gone_reasons.update(macro.reasons)
        self._overall.remove(macro_id)
        for request_id in macro.pending_ids():
            self._ask(self._infos[request_id])

    def add_instance(self, macro_id: str) -> SimInstance:
        """An idle instance, which still has to join."""
        spec = self.spec
        instance_id = f"i{len(self.instances)}"
        record = InstanceRecord(instance_id=instance_id, macro_id=macro_id)
        record.joined_s, record.total_blocks = self.clock.now_s, self._latency.num_blocks
        instance = SimInstance(
            self.clock,
            record,
            self._latency,
            spec.max_running,
            spec.max_prefill_tokens,
            ended=self._predictor.ended,
            timeline=spec.timeline,
            policy=make_instance_policy(spec.instance_policy, spec.econo),
            promised_share=spec.promised_share,
            ends_answers=spec.hides_lengths,
        )
        self.instances.append(instance)
        return instance

    # What happens

    def _arrive(self, arrival: Arrival) -> None:
        record = self._records[arrival.request_id]
        info = RequestInfo(
            request_id=arrival.request_id,
            prompt_tokens=arrival.prompt_tokens,
            max_tokens=max(self.spec.answer_limit_tokens, arrival.output_tokens),
            predicted_tokens=self._predictor.predict(arrival),
            slo=record.slo,
            arrival_s=self.clock.now_s,
            background=arrival.background,
        )
        self._infos[arrival.request_id] = info
        self._ask(info)

    def _ask(self, info: RequestInfo) -> None:
        """Asks a macro-instance for admission."""
        macro = next(iter(self.macros.values()))
        if len(self.macros) > 1:
            if self.clock.now_s - self._summed_s > SUMMARY_S:
                self._summed_s = self.clock.now_s
                for macro_id, each in self.macros.items():
                    self._overall.update(macro_id, each.summary())
            macro = self.macros[self._overall.choose("", info) or macro.macro_id]
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
            max_tokens=info.max_tokens if self.spec.hides_lengths else record.arrival.output_tokens,
            predicted_tokens=info.predicted_tokens,
            slo=info.slo,
            arrival_s=info.arrival_s,
            background=info.background,
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
        self.num_refused += 1

    def _fault(self, fault: Fault) -> None:
        instance = self.instances[fault.instance]
        if fault.kind == "slow":
            instance.slowness = fault.factor
            return
        instance.alive = False
        instance.record.left_s = self.clock.now_s
        for record in instance.requests.values():
            record.lost = True
        for macro in self.macros.values():
            macro.leave(instance.info.instance_id)
