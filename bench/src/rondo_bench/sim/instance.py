"""A simulated instance: a real instance scheduler whose engine is a latency model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from rondo.perf.profile import LatencyProfile
from rondo.policy import events
from rondo.policy.instance import InstanceScheduler
from rondo.policy.instance_policy import InstancePolicy
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job, StepOutcome, StepPlan
from rondo.policy.progress import NOTHING, progress_of
from rondo.policy.turns import TurnEnd
from rondo.types import Batching, Phase, Progress, StepStat
from rondo_bench.sim.clock import VirtualClock
from rondo_bench.sim.ends import answers_ending
from rondo_bench.sim.records import InstanceRecord, KvSample, PhaseSpan, RequestRecord


class Owner(Protocol):
    """The macro-instance that an instance belongs to; none while it drains."""

    def report(self, instance: SimInstance, progress: Progress) -> None:
        """An instance reported."""

    def closed(self, instance: SimInstance, end: TurnEnd) -> None:
        """An instance resumed decode."""

    def waiting(self) -> bool:
        """Whether requests wait for admission."""
        ...


class SimInstance:
    """Runs step after step while there is work.

    Reports go out when something began or ended and whenever `eager` says that requests wait for
    one; steps in between are held and reported together, as a worker does.

    Args:
        policy: whose prompt is next, and who gets KV. promised_share: what the macro-instance may
            count on, over the pool. ends_answers: end them at the length that they have in truth,
            as an engine's last token would; else their limit does.
    """

    def __init__(
        self,
        clock: VirtualClock,
        record: InstanceRecord,
        latency: LatencyProfile,
        max_running: int,
        max_prefill_tokens: int,
        *,
        ended: Callable[[int], None],
        timeline: bool,
        policy: InstancePolicy,
        promised_share: float = 1.0,
        ends_answers: bool = False,
    ) -> None:
        self.record = record
        self.requests: dict[str, RequestRecord] = {}
        self.prefill_steps_s: dict[str, float] = {}
        """Time of the last prefill step of each request that is to be handed over."""
        self.owner: Owner | None = None
        self.slowness = 1.0
        self.alive = True
        self.scheduler = InstanceScheduler(
            KvLedger(latency.num_blocks, latency.block_size),
            max_running=max_running,
            max_prefill_tokens=max_prefill_tokens,
            step_cost=latency,
            policy=policy,
        )
        self.info = events.InstanceInfo(
            instance_id=record.instance_id,
            latency=latency,
            block_size=latency.block_size,
            num_blocks=int(promised_share * latency.num_blocks),
            max_model_len=latency.num_blocks * latency.block_size,
            max_running=max_running,
            max_prefill_tokens=max_prefill_tokens,
        )
        self._clock = clock
        self._latency = latency
        self._ended = ended
        self._timeline = timeline
        self._ends_answers = ends_answers
        self._stepping = False
        self._held: list[StepStat] = []

    # Commands

    def add(self, job: Job, record: RequestRecord) -> None:
        """A prompt came."""
        self.requests[job.request_id] = record
        self.scheduler.add(job)
        self.wake()

    def grant(
        self, turn: int, request_ids: tuple[str, ...], budget_s: float, batching: Batching
    ) -> None:
        """A token came, or was extended."""
        self.scheduler.grant(turn, request_ids, budget_s, self._clock.now_s, batching)
        self.wake()

    def cancel(self, request_id: str) -> None:
        """A request was withdrawn, which is reported for its blocks."""
        self.scheduler.cancel(request_id)
        self._report()

    def release(self, request_id: str) -> RequestRecord:
        """Another instance has the request with its KV."""
        self.scheduler.cancel(request_id)
        self.wake()
        return self.requests.pop(request_id)

    def receive(self, request_id: str, record: RequestRecord) -> None:
        """The KV of an expected request is here."""
        self.requests[request_id] = record
        self.scheduler.board.land(request_id)
        self.wake()

    def wake(self) -> None:
        """Looks for a step, unless one runs."""
        if not self._stepping:
            self._stepping = True
            self._clock.at(self._clock.now_s, self._step)

    def progress(self, outcome: StepOutcome = NOTHING, *, full: bool = False) -> Progress:
        """The state, with the held steps and what the last one brought."""
        steps, self._held = tuple(self._held), []
        now_s = self._clock.now_s
        return progress_of(self.scheduler, now_s, outcome=outcome, steps=steps, full=full)

    def flush(self) -> None:
        """Reports what is held."""
        if self._held:
            self._report()

    def saved_tpot_s(self) -> list[float]:
        """Saved TPOT of each request that decodes."""
        batch, now_s = self.scheduler.board.batch, self._clock.now_s
        return [
            batch.gained(job) * job.slo.tpot_s - (now_s - job.decode_start_s)
            for job in batch
            if job.decode_start_s is not None
        ]

    def _report(self, outcome: StepOutcome = NOTHING) -> None:
        if self.owner:
            self.owner.report(self, self.progress(outcome))

    # Steps

    def _step(self, _: object) -> None:
        if not self.alive:
            return
        now_s, before = self._clock.now_s, self.scheduler.phase
        plan = self.scheduler.plan(now_s)
        for event in self.scheduler.take_turn_events():
            if isinstance(event, TurnEnd):
                self.flush()
                if self.owner:
                    self.owner.closed(self, event)
        if plan is None:
            self._stepping = False
            if before is not Phase.IDLE:
                self._report()
            return
        duration_s = self.slowness * self._latency.step_s(
            plan.prompt_tokens, plan.pairs, plan.num_decodes, plan.context_tokens
        )
        self._clock.at(now_s + duration_s, self._stepped, (plan, duration_s))

    def _stepped(self, step: tuple[StepPlan, float]) -> None:
        if not self.alive:
            return
        plan, duration_s = step
        outcome = self.scheduler.advance(plan, self._ending(plan))
        self._held.append(plan.stat(duration_s))
        self._account(plan, duration_s)
        changed = outcome.prefilled or outcome.started or outcome.finished
        if changed:
            self._keep(outcome, duration_s)
        if changed or (self.owner and self.owner.waiting()):
            self._report(outcome)
        self._step(None)

    def _ending(self, plan: StepPlan) -> Sequence[str]:
        """Requests that the step ends, unless their limit does."""
        if not self._ends_answers:
            return ()
        requests = self.requests
        return answers_ending(
            self.scheduler.board, plan, lambda each: requests[each].arrival.output_tokens
        )

    def _keep(self, outcome: StepOutcome, duration_s: float) -> None:
        now_s = self._clock.now_s
        for request_id in outcome.prefilled:
            self.requests[request_id].first_token_s = now_s
        for started in outcome.started:
            self.requests[started.request_id].decode_start_s = now_s - duration_s
        for finished in outcome.finished:
            record = self.requests.pop(finished.request_id)
            record.last_token_s, record.tokens_out = now_s, finished.tokens_out
            self._ended(finished.tokens_out)
        if self.scheduler.hands_over:
            stay = (r for r in outcome.prefilled if r in self.requests)
            self.prefill_steps_s.update(dict.fromkeys(stay, duration_s))

    def _account(self, plan: StepPlan, duration_s: float) -> None:
        record = self.record
        record.num_steps += 1
        record.busy_s += duration_s
        record.background_tokens += plan.background_tokens
        record.num_preempted = self.scheduler.num_preempted
        if plan.phase is Phase.PREFILL:
            record.prefill_s += duration_s
        elif plan.phase is Phase.DECODE:
            record.decode_s += duration_s
        else:
            record.fused_s += duration_s
        if self._timeline:
            self._draw(plan.phase, duration_s)

    def _draw(self, phase: Phase, duration_s: float) -> None:
        now_s, spans = self._clock.now_s, self.record.spans
        if spans and spans[-1].phase is phase and now_s - duration_s - spans[-1].end_s < 1e-9:
            spans[-1] = PhaseSpan(spans[-1].start_s, now_s, phase)
        else:
            spans.append(PhaseSpan(now_s - duration_s, now_s, phase))
            kv = self.scheduler.occupancy()
            self.record.kv.append(KvSample(now_s, kv.used_blocks, kv.reserved_blocks))
