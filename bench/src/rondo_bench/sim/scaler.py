"""Mitosis in the simulator: what was seen in a window, what is decided, and what that does."""

from __future__ import annotations

from dataclasses import dataclass

from rondo.policy import mitosis as mt
from rondo.policy.capacity import used_share
from rondo.policy.fleet import describe
from rondo.policy.mitosis import Mitosis, ScalingEffect
from rondo.policy.scaling import ScalingTrigger, Verdict, Window
from rondo_bench.sim.cluster import SimCluster
from rondo_bench.sim.instance import SimInstance
from rondo_bench.sim.records import RequestRecord


@dataclass(frozen=True, slots=True)
class WindowRecord:
    """One window: how large the cluster was, what it reached, and what was decided."""

    window: Window
    num_macros: int
    attainment: float | None
    verdict: Verdict
    reason: str


class SimScaler:
    """Scales a cluster that was built empty (`num_instances` 0) from `start` instances on.

    Args:
        startup_s: how long a new instance takes until it serves.
        until_s: the last window ends there.
    """

    def __init__(
        self,
        cluster: SimCluster,
        mitosis: Mitosis,
        trigger: ScalingTrigger,
        *,
        start: int,
        window_s: float,
        startup_s: float,
        until_s: float,
    ) -> None:
        self.windows: list[WindowRecord] = []
        self.events: list[tuple[float, str]] = []
        self._cluster = cluster
        self._mitosis = mitosis
        self._trigger = trigger
        self._window_s = window_s
        self._startup_s = startup_s
        self._until_s = until_s
        self._seen: set[str] = set()
        self._refused = 0
        for _ in range(start):
            self._apply(mitosis.add(self._new_id()))
        cluster.clock.at(window_s, self._window)

    def _window(self, _: object) -> None:
        now_s = self._cluster.clock.now_s
        self._release_drained()
        window, attainment = self._observe(now_s)
        decision = self._trigger.observe(window)
        self.windows.append(
            WindowRecord(
                window, len(self._mitosis.macros), attainment, decision.verdict, decision.reason
            )
        )
        if decision.verdict is Verdict.EXPAND:
            effects = self._mitosis.call_back()
            if effects:
                self._apply(effects)
            else:
                self._cluster.clock.at(now_s + self._startup_s, self._started)
        elif decision.verdict is Verdict.CONTRACT:
            self._apply(self._mitosis.contract())
        if now_s + self._window_s <= self._until_s:
            self._cluster.clock.at(now_s + self._window_s, self._window)

    def _started(self, _: object) -> None:
        self._apply(self._mitosis.add(self._new_id()))

    def _new_id(self) -> str:
        return f"i{len(self._cluster.instances)}"

    # What was seen

    def _observe(self, now_s: float) -> tuple[Window, float | None]:
        begun = [r for r in self._cluster.records() if self._is_new(r)]
        self._seen.update(record.arrival.request_id for record in begun)
        ttfts = [self._ttft_s(record) for record in begun]
        saved = [s for instance in self._members() for s in instance.saved_tpot_s()]
        refused = self._cluster.num_refused - self._refused
        self._refused = self._cluster.num_refused
        limits = [record.slo.ttft_s for record in begun] or [self._cluster.spec.slo.ttft_s]
        window = Window(
            at_s=now_s,
            duration_s=self._window_s,
            num_instances=self._mitosis.num_active,
            mean_ttft_s=sum(ttfts) / len(ttfts) if ttfts else None,
            mean_saved_tpot_s=sum(saved) / len(saved) if saved else None,
            ttft_limit_s=sum(limits) / len(limits),
            num_served=len(begun),
            num_refused=refused,
            used_share=self._used_share(len(begun) + refused),
        )
        arrived = [
            r for r in self._cluster.records() if now_s - self._window_s < r.arrival.at_s <= now_s
        ]
        ended = [r for r in arrived if r.completed or r.rejected]
        met = sum(record.meets_slo for record in ended)
        return window, met / len(ended) if ended else None

    def _used_share(self, num_offered: int) -> float | None:
        macros = self._cluster.macros.values()
        rates = [rate for macro in macros if (rate := macro.policy.instance_rate()) is not None]
        return used_share(num_offered / self._window_s, self._mitosis.num_active, rates)

    def _is_new(self, record: RequestRecord) -> bool:
        begun = record.decode_start_s is not None or record.last_token_s is not None
        return begun and record.arrival.request_id not in self._seen

    @staticmethod
    def _ttft_s(record: RequestRecord) -> float:
        start_s = record.decode_start_s
        end_s = record.first_token_s if start_s is None else start_s
        assert end_s is not None
        return end_s - record.arrival.at_s

    def _members(self) -> list[SimInstance]:
        return [i for macro in self._cluster.macros.values() for i in macro.instances.values()]

    # What is done

    def _apply(self, effects: list[ScalingEffect]) -> None:
        cluster = self._cluster
        for effect in effects:
            self.events.append((cluster.clock.now_s, describe(effect)))
            match effect:
                case mt.Create(macro_id=macro_id):
                    cluster.add_macro(macro_id, self._mitosis.settings.n_lower)
                case mt.Join(instance_id=instance_id, macro_id=macro_id):
                    cluster.macros[macro_id].join(self._instance(instance_id, macro_id))
                case mt.Drain(instance_id=instance_id, macro_id=macro_id):
                    cluster.macros[macro_id].leave(instance_id)
                case mt.Move(instance_id=instance_id, source_id=source_id, target_id=target_id):
                    cluster.macros[source_id].leave(instance_id)
                    cluster.macros[target_id].join(self._instance(instance_id, target_id))
                case mt.Remove(macro_id=macro_id):
                    cluster.remove_macro(macro_id)

    def _instance(self, instance_id: str, macro_id: str) -> SimInstance:
        number = int(instance_id[1:])
        if number == len(self._cluster.instances):
            return self._cluster.add_instance(macro_id)
        return self._cluster.instances[number]

    def _release_drained(self) -> None:
        for instance_id in self._mitosis.draining:
            instance = self._cluster.instances[int(instance_id[1:])]
            if not instance.scheduler.board.jobs:
                instance.alive = False
                instance.record.left_s = self._cluster.clock.now_s
                self._mitosis.finished(instance_id)
                self.events.append((self._cluster.clock.now_s, f"{instance_id} is gone"))
