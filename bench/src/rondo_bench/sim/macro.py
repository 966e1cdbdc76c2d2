"""A simulated coordinator: one policy object, whose effects reach instances after a delay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from rondo.policy import events
from rondo.policy.events import AnyEffect, Event, MacroScheduler
from rondo.policy.fudg import FudgScheduler
from rondo.policy.macro import MacroState
from rondo.policy.overall import MacroSummary
from rondo.policy.turns import TurnEnd
from rondo.types import Progress
from rondo_bench.sim.clock import VirtualClock
from rondo_bench.sim.instance import SimInstance
from rondo_bench.sim.moves import KvMover


class SimMacro:
    """Runs the policy of one macro-instance.

    Args:
        admitted, rejected: what the gateway is told.
        delay_s: every message takes that long.
        mover: moves KV, for a policy that has it moved.
    """

    def __init__(
        self,
        macro_id: str,
        clock: VirtualClock,
        policy: MacroScheduler,
        *,
        admitted: Callable[[events.Admit], None],
        rejected: Callable[[events.Reject], None],
        delay_s: float,
        mover: KvMover | None = None,
    ) -> None:
        self.macro_id = macro_id
        self.policy = policy
        self.instances: dict[str, SimInstance] = {}
        self.reasons: Counter[str] = Counter()
        self._clock = clock
        self._admitted = admitted
        self._rejected = rejected
        self._delay_s = delay_s
        self._mover = mover
        self._tick_s = float("inf")

    def waiting(self) -> bool:
        """Whether requests wait for admission."""
        return self.policy.num_pending > 0

    def join(self, instance: SimInstance) -> None:
        """An instance joins with what it runs."""
        self.instances[instance.info.instance_id] = instance
        instance.owner = self
        progress = instance.progress(full=True)
        self._handle(
            events.InstanceJoined(at_s=self._clock.now_s, instance=instance.info, progress=progress)
        )
        if self._mover and isinstance(self.policy, FudgScheduler):
            view = self.policy.views[instance.info.instance_id]
            instance.scheduler.hands_over = self.policy.prefills(view)
            self._mover.place(instance, self.policy.node_of(view))

    def leave(self, instance_id: str) -> None:
        """An instance is gone."""
        if instance := self.instances.pop(instance_id, None):
            instance.owner = None
            if self._mover:
                self._mover.drop(instance)
            self._handle(events.InstanceLeft(at_s=self._clock.now_s, instance_id=instance_id))

    def pending_ids(self) -> list[str]:
        """Requests that wait for admission here."""
        policy = self.policy
        assert isinstance(policy, MacroState)
        return [*(request.request_id for request in policy.pending), *policy.background.pending]

    def summary(self) -> MacroSummary:
        """What the overall scheduler is told."""
        infos = [instance.info for instance in self.instances.values()]
        occupancies = [i.scheduler.occupancy() for i in self.instances.values()]
        return MacroSummary(
            model="",
            num_instances=len(infos),
            num_pending=self.policy.num_pending,
            num_running=sum(len(i.scheduler.board.jobs) for i in self.instances.values()),
            max_model_len=max((info.max_model_len for info in infos), default=0),
            free_blocks=max((kv.free_blocks for kv in occupancies), default=0),
            block_size=max((info.block_size for info in infos), default=1),
        )

    def arrive(self, event: events.RequestArrived) -> None:
        """A request asks for admission; what instances hold back is reported first."""
        for instance in self.instances.values():
            instance.flush()
        self._handle(event)

    def report(self, instance: SimInstance, progress: Progress) -> None:
        """An instance reported."""
        if self._mover:
            self._mover.retry(instance)
        self._later(
            events.InstanceReported(
                at_s=self._clock.now_s + self._delay_s,
                instance_id=instance.info.instance_id,
                progress=progress,
            )
        )

    def closed(self, instance: SimInstance, end: TurnEnd) -> None:
        """An instance resumed decode."""
        self._later(
            events.TurnClosed(
                at_s=self._clock.now_s + self._delay_s,
                instance_id=instance.info.instance_id,
                turn=end.turn,
                duration_s=end.duration_s,
                leftover=end.leftover,
            )
        )

    def _later(self, event: Event) -> None:
        if self._delay_s:
            self._clock.at(event.at_s, self._handle, event)
        else:
            self._handle(event)

    def _handle(self, event: Event) -> None:
        decision = self.policy.handle(event)
        for effect in decision.effects:
            self._perform(effect)
        for reason in decision.reasons:
            self.reasons[reason.split(":", 1)[0]] += 1
        wake_at_s = decision.wake_at_s
        if wake_at_s is not None and wake_at_s < self._tick_s:
            self._tick_s = wake_at_s
            self._clock.at(wake_at_s, self._tick)

    def _tick(self, _: object) -> None:
        self._tick_s = float("inf")
        self._handle(events.Tick(at_s=self._clock.now_s))

    def _perform(self, effect: AnyEffect) -> None:
        match effect:
            case events.Admit():
                self._admitted(effect)
            case events.GrantTurn() | events.ExtendTurn():
                if self._delay_s:
                    self._clock.at(self._clock.now_s + self._delay_s, self._grant, effect)
                else:
                    self._grant(effect)
            case events.RevokeTurn():
                if instance := self.instances.get(effect.instance_id):
                    instance.scheduler.revoke(effect.turn)
            case events.MoveKv():
                self._clock.at(self._clock.now_s + self._delay_s, self._move, effect)
            case events.Reject():
                self._rejected(effect)

    def _move(self, effect: events.MoveKv) -> None:
        if self._mover and not self._mover.order(effect):
            at_s = self._clock.now_s + self._delay_s
            self._later(events.RequestCancelled(at_s=at_s, request_id=effect.request_id))

    def _grant(self, effect: events.GrantTurn | events.ExtendTurn) -> None:
        if instance := self.instances.get(effect.instance_id):
            instance.grant(effect.turn, effect.request_ids, effect.budget_s, effect.batching)
