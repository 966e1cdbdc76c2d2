"""A cluster on virtual time: the real macro policy and the real instance schedulers, no I/O.

Messages between them can be delayed or lost by the test. Used by unit and property tests.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from rondo.perf.profile import LatencyProfile
from rondo.policy import events
from rondo.policy.events import AnyEffect, MacroScheduler
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job, StepPlan
from rondo.policy.progress import progress_of
from rondo.policy.turns import TurnEnd
from rondo.types import Progress, RequestInfo

PROFILE = LatencyProfile(
    name="test",
    source="made up: 10 ms floor, 0.1 ms a prompt token, 20 ms decode",
    prefill_floor_ms=(10.0, 0.0),
    prefill_line_ms=(5.0, 0.1),
    prefill_attn_ms=(0.0, 0.0, 0.0),
    decode_ms=(20.0, 0.1, 0.0),
    block_size=16,
    num_blocks=2048,
)


@dataclass
class Outcome:
    """What became of a request."""

    info: RequestInfo
    admitted: list[events.Admit] = field(default_factory=list)
    rejected: events.Reject | None = None
    indices: list[int] = field(default_factory=list)
    first_token_s: float | None = None
    decode_start_s: float | None = None
    last_token_s: float | None = None
    finished: bool = False
    ended_s: float = 0.0

    @property
    def ttft_s(self) -> float:
        """EcoServe's strict reading: until decode starts."""
        start_s = self.decode_start_s if len(self.indices) > 1 else self.first_token_s
        assert start_s is not None
        return start_s - self.info.arrival_s

    @property
    def tpot_s(self) -> float:
        if len(self.indices) < 2:
            return 0.0
        assert self.last_token_s is not None
        assert self.decode_start_s is not None
        return (self.last_token_s - self.decode_start_s) / (len(self.indices) - 1)


class VirtualCluster:
    """Runs until nothing is left to do, in order of virtual time."""

    def __init__(
        self,
        policy: MacroScheduler,
        num_instances: int,
        max_prefill_tokens: int = 2048,
        num_blocks: int = PROFILE.num_blocks,
    ) -> None:
        self.policy = policy
        self.profile = msgspec.structs.replace(PROFILE, num_blocks=num_blocks)
        self.max_prefill_tokens = max_prefill_tokens
        self.now_s = 0.0
        self.instances: dict[str, InstanceScheduler] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.journal: list[str] | None = None  # set to a list to record decisions
        self.lose: Callable[[AnyEffect], bool] = lambda effect: False
        self._stepping: set[str] = set()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        for index in range(num_instances):
            self.join(f"i{index}")

    def at(self, at_s: float, action: Callable[[], None]) -> None:
        """Calls `action` at a virtual time."""
        self._count += 1
        heapq.heappush(self._heap, (at_s, self._count, action))

    def submit(self, info: RequestInfo, *, late_s: float = 0.0) -> None:
        """Schedules when the policy hears of a request, `late_s` after its arrival."""
        self.outcomes[info.request_id] = Outcome(info)
        self.at(info.arrival_s + late_s, lambda: self._arrive(info))

    def run(self, until_s: float = 1e6) -> None:
        """Works everything off."""
        while self._heap and self._heap[0][0] <= until_s:
            self.now_s, _, action = heapq.heappop(self._heap)
            action()
            self.policy.check_invariants()

    # Instances

    def join(self, instance_id: str) -> None:
        """An empty instance joins."""
        scheduler = InstanceScheduler(
            KvLedger(self.profile.num_blocks, self.profile.block_size),
            max_running=64,
            max_prefill_tokens=self.max_prefill_tokens,
        )
        self.instances[instance_id] = scheduler
        self.announce(instance_id)

    def announce(self, instance_id: str) -> None:
        """Tells the policy (a new one, say) of an instance, with its full report."""
        info = events.InstanceInfo(
            instance_id=instance_id,
            latency=self.profile,
            block_size=self.profile.block_size,
            num_blocks=self.profile.num_blocks,
            max_model_len=self.profile.num_blocks * self.profile.block_size,
            max_running=64,
            max_prefill_tokens=self.max_prefill_tokens,
        )
        progress = progress_of(self.instances[instance_id], self.now_s, full=True)
        self._handle(events.InstanceJoined(at_s=self.now_s, instance=info, progress=progress))

    def leave(self, instance_id: str) -> None:
        """An instance dies with all it had."""
        del self.instances[instance_id]
        self._handle(events.InstanceLeft(at_s=self.now_s, instance_id=instance_id))

    def cancel(self, request_id: str) -> None:
        """The client goes away; the gateway tells coordinator and worker."""
        for scheduler in self.instances.values():
            scheduler.cancel(request_id)
        self._handle(events.RequestCancelled(at_s=self.now_s, request_id=request_id))

    def report(self, instance_id: str, progress: Progress) -> None:
        """Sends an instance's report."""
        self._handle(
            events.InstanceReported(at_s=self.now_s, instance_id=instance_id, progress=progress)
        )

    def heartbeat(self, period_s: float, until_s: float) -> None:
        """Full reports of everybody, as live instances send them."""
        for instance_id, scheduler in list(self.instances.items()):
            expired = scheduler.expire(self.now_s)
            progress = progress_of(scheduler, self.now_s, finished=expired, full=True)
            self.report(instance_id, progress)
            self._step(instance_id)
        if self.now_s + period_s <= until_s:
            self.at(self.now_s + period_s, lambda: self.heartbeat(period_s, until_s))

    # Internals

    def _arrive(self, info: RequestInfo) -> None:
        self._handle(events.RequestArrived(at_s=self.now_s, request=info))

    def _handle(self, event: events.Event) -> None:
        decision = self.policy.handle(event)
        if self.journal is not None:
            self.journal.append(repr((event, decision)))
        for effect in decision.effects:
            if not self.lose(effect):
                self._perform(effect)
        if decision.wake_at_s is not None:
            self.at(max(decision.wake_at_s, self.now_s), self._tick)

    def _tick(self) -> None:
        decision = self.policy.handle(events.Tick(at_s=self.now_s))
        for effect in decision.effects:
            self._perform(effect)

    def _perform(self, effect: AnyEffect) -> None:
        match effect:
            case events.Admit():
                self._admit(effect)
            case events.Reject():
                outcome = self.outcomes[effect.request_id]
                outcome.rejected, outcome.ended_s = effect, self.now_s
            case events.GrantTurn() | events.ExtendTurn():
                if scheduler := self.instances.get(effect.instance_id):
                    scheduler.grant(
                        effect.turn,
                        effect.request_ids,
                        effect.budget_s,
                        self.now_s,
                        effect.batching,
                    )
                    self.at(self.now_s, lambda: self._step(effect.instance_id))
            case events.RevokeTurn():
                if scheduler := self.instances.get(effect.instance_id):
                    scheduler.revoke(effect.turn)
            case events.CancelOn():
                if scheduler := self.instances.get(effect.instance_id):
                    scheduler.cancel(effect.request_id)

    def _admit(self, effect: events.Admit) -> None:
        outcome = self.outcomes[effect.request_id]
        outcome.admitted.append(effect)
        info = outcome.info
        job = Job(
            request_id=info.request_id,
            prompt_tokens=info.prompt_tokens,
            max_tokens=info.max_tokens,
            predicted_tokens=info.predicted_tokens,
            slo=info.slo,
            arrival_s=info.arrival_s,
        )
        if scheduler := self.instances.get(effect.instance_id):
            scheduler.add(job)

    def _step(self, instance_id: str) -> None:
        scheduler = self.instances.get(instance_id)
        if scheduler is None or instance_id in self._stepping:
            return
        plan = scheduler.plan(self.now_s)
        for event in scheduler.take_turn_events():
            if isinstance(event, TurnEnd):
                closed = events.TurnClosed(
                    at_s=self.now_s,
                    instance_id=instance_id,
                    turn=event.turn,
                    duration_s=event.duration_s,
                    leftover=event.leftover,
                )
                self._handle(closed)
        if plan is not None:
            self._stepping.add(instance_id)
            duration_s = self.profile.step_s(
                plan.prompt_tokens, plan.pairs, plan.num_decodes, plan.context_tokens
            )
            self.at(
                self.now_s + duration_s,
                lambda: self._stepped(instance_id, scheduler, plan, duration_s),
            )

    def _stepped(
        self, instance_id: str, scheduler: InstanceScheduler, plan: StepPlan, duration_s: float
    ) -> None:
        self._stepping.discard(instance_id)
        if self.instances.get(instance_id) is not scheduler:
            return
        jobs = scheduler.board.jobs
        done = [c for c in plan.chunks if c.request_id in jobs]
        done = [c for c in done if c.start + c.num_tokens == jobs[c.request_id].known]
        tokens = {item.request_id: 7 for item in [*done, *plan.decodes]}
        result = scheduler.commit(plan, tokens)
        scheduler.check_invariants()
        for token in result.tokens:
            outcome = self.outcomes[token.request_id]
            outcome.indices.append(token.index)
            outcome.last_token_s = outcome.ended_s = self.now_s
            if token.index == 0:
                outcome.first_token_s = self.now_s
            elif token.index == 1:
                outcome.decode_start_s = self.now_s - duration_s
            outcome.finished = outcome.finished or token.finish is not None
        stat = plan.stat(duration_s)
        progress = progress_of(scheduler, self.now_s, outcome=result, steps=(stat,))
        self.report(instance_id, progress)
        self._step(instance_id)
