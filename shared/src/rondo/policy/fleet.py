"""Who of a model's instances belongs to which of its macro-instances, as they come and go.

Mitosis decides; this adds what a live cluster needs beyond it: instances have processes that start
anew now and then, and a decider that takes over has to go on where the one before stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rondo.errors import InvariantError
from rondo.policy import mitosis as mt
from rondo.policy.mitosis import Mitosis, MitosisSettings, ScalingEffect
from rondo.types import Group


class Fleet:
    """One model's instances. Pure: time comes in as `at_s`, in seconds of the caller's clock.

    Args:
        names: ids of macro-instances to come; the first is the model's own.
        groups: who belonged where, as the decider before left it.
        grace_s: who is away for less is taken to be starting anew, and keeps its place.
    """

    def __init__(
        self,
        names: Iterable[str],
        settings: MitosisSettings | None = None,
        groups: Iterable[Group] = (),
        grace_s: float = 15.0,
    ) -> None:
        self._mitosis = Mitosis(settings, names)
        self._grace_s = grace_s
        self._present: dict[str, None] = {}
        self._missing_s: dict[str, float] = {}
        self._retired: dict[str, None] = {}  # they have drained, and wait to be ended
        self._restored = tuple(groups)

    def begin(self, present: Iterable[str], at_s: float) -> list[ScalingEffect]:
        """Takes over: who is there now, beside who belonged where before."""
        effects = self._mitosis.restore(self._restored)
        self._present = dict.fromkeys(present)
        for instance_id in [i for g in self._restored for i in (*g.instance_ids, *g.draining)]:
            if instance_id not in self._present:
                self._missing_s[instance_id] = at_s
        for instance_id in self._present:
            if self._mitosis.drains_from(instance_id) is None:
                effects += self._mitosis.add(instance_id)
        return effects

    # Looking in

    @property
    def groups(self) -> tuple[Group, ...]:
        """Who belongs where, the oldest macro-instance first."""
        draining: dict[str, list[str]] = {}
        for instance_id in self._mitosis.draining:
            macro_id = self._mitosis.drains_from(instance_id)
            assert macro_id is not None
            draining.setdefault(macro_id, []).append(instance_id)
        return tuple(
            Group(
                macro_id=macro_id,
                instance_ids=members,
                draining=tuple(draining.get(macro_id, ())),
            )
            for macro_id, members in self._mitosis.macros.items()
        )

    @property
    def num_serving(self) -> int:
        """Instances that are there and take requests."""
        return self._mitosis.num_active - sum(
            self._mitosis.macro_of(instance_id) is not None for instance_id in self._missing_s
        )

    @property
    def draining(self) -> tuple[str, ...]:
        """Instances that finish what they have."""
        return self._mitosis.draining

    @property
    def retired(self) -> tuple[str, ...]:
        """Instances that have nothing left and may be ended."""
        return tuple(self._retired)

    # What happens

    def came(self, instance_id: str) -> list[ScalingEffect]:
        """An instance is there, for the first time or again."""
        self._present[instance_id] = None
        self._missing_s.pop(instance_id, None)
        if instance_id in self._retired or self._mitosis.drains_from(instance_id) is not None:
            return []
        return self._mitosis.add(instance_id)

    def went(self, instance_id: str, at_s: float) -> None:
        """An instance is away; it loses its place when it does not come back in time."""
        if self._present.pop(instance_id, self) is not self:
            self._missing_s[instance_id] = at_s

    def tick(self, at_s: float) -> list[ScalingEffect]:
        """Time has passed."""
        effects: list[ScalingEffect] = []
        for instance_id, since_s in list(self._missing_s.items()):
            retired = instance_id in self._retired
            if retired or at_s - since_s >= self._grace_s:
                del self._missing_s[instance_id]
                self._retired.pop(instance_id, None)
                effects += self._mitosis.lost(instance_id)
        return effects

    def idle(self, instance_id: str) -> bool:
        """A draining instance has nothing left; whether it is retired by that."""
        if not self._mitosis.finished(instance_id):
            return False
        self._retired[instance_id] = None
        return True

    # What is decided elsewhere

    def expand(self) -> list[ScalingEffect]:
        """One instance more is wanted: one that drains is called back; nothing if none does."""
        return self._mitosis.call_back()

    def contract(self, loads: Mapping[str, float]) -> list[ScalingEffect]:
        """One instance less is wanted; the least loaded that may go drains."""
        return self._mitosis.contract(loads)

    def check_invariants(self) -> None:
        """Raises InvariantError when an instance is in two states."""
        self._mitosis.check_invariants()
        if both := self._present.keys() & self._missing_s.keys():
            raise InvariantError(f"fleet: there and away: {sorted(both)}")


def describe(effect: ScalingEffect) -> str:
    """What an effect does, for people."""
    match effect:
        case mt.Create(macro_id=macro_id):
            return f"{macro_id} is created"
        case mt.Remove(macro_id=macro_id):
            return f"{macro_id} is removed"
        case mt.Join(instance_id=instance_id, macro_id=macro_id):
            return f"{instance_id} joins {macro_id}"
        case mt.Drain(instance_id=instance_id, macro_id=macro_id):
            return f"{instance_id} drains from {macro_id}"
        case mt.Move(instance_id=instance_id, source_id=source_id, target_id=target_id):
            return f"{instance_id} moves from {source_id} to {target_id}"
