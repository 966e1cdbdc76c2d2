"""Mitosis scaling (EcoServe, arXiv 2504.18154, section 4.3): macro-instances that split and merge.

Expansion adds instances one by one. When the macro-instance that grows would pass `n_upper`, it
splits: the last `n_lower` to join become a new one. From then on the older is filled up to
`n_upper` first, then the newer. Contraction takes instances from the smallest macro-instance until
it has `n_lower`, then from a full one; two that have `n_upper` together, or fewer, merge. An
instance that is taken away drains: it gets nothing new and finishes what it has. What moves between
macro-instances is a handle, never running work.

Where the paper leaves room: contraction goes back the way that expansion came; it stays with the
full one that it began with, and merges two as soon as one instance less lets it. Beyond the paper:
a draining instance is called back before a new one is asked for; a dead one may leave a
macro-instance below `n_lower`, which then merges or is lent instances by the largest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import TypeAlias

import msgspec

from rondo.errors import ConfigError, InvariantError
from rondo.types import Group


class MitosisSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a macro-instance: N_l and N_u of the paper, which used 6 and 11.

    A split makes n_lower and n_upper + 1 - n_lower of n_upper + 1, and neither may be too small:
    so n_upper is at least 2 n_lower - 1. It also lets one that a death left too small always merge
    or borrow: when it and another have more than n_upper together, the other can spare one.
    """

    n_lower: int = 6
    n_upper: int = 11

    def __post_init__(self) -> None:
        if self.n_lower < 1:
            raise ConfigError("n_lower", f"{self.n_lower} is below 1")
        if self.n_upper < 2 * self.n_lower - 1:
            problem = f"{self.n_upper} is below {2 * self.n_lower - 1}: a split would leave too few"
            raise ConfigError("n_upper", problem)


class Move(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An instance belongs to another macro-instance from now on, with all it runs."""

    instance_id: str
    source_id: str
    target_id: str


class Create(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A macro-instance comes into being."""

    macro_id: str


class Remove(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A macro-instance has no active instances any more; what drains from it is the heir's now."""

    macro_id: str
    heir_id: str


class Join(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An instance takes requests of this macro-instance.

    drained_from_id: where a called-back instance was draining from; None for a new one.
    """

    instance_id: str
    macro_id: str
    drained_from_id: str | None = None


class Drain(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An instance gets nothing new; it may go when it has finished."""

    instance_id: str
    macro_id: str


ScalingEffect: TypeAlias = Move | Create | Remove | Join | Drain


class Mitosis:
    """Who belongs to which macro-instance. Pure: each call returns the effects, in order.

    Args:
        names: ids of macro-instances to come, of which those in use are passed over.
    """

    def __init__(
        self, settings: MitosisSettings | None = None, names: Iterable[str] | None = None
    ) -> None:
        self.settings = settings or MitosisSettings()
        self._names = iter(names or (f"m{number}" for number in count()))
        self._macros: dict[str, list[str]] = {}  # the oldest macro-instance first
        self._draining: dict[str, str] = {}  # instance: macro-instance it drains from

    def restore(self, groups: Iterable[Group]) -> list[ScalingEffect]:
        """Takes over what was decided before; what is out of bounds by now splits or merges."""
        for group in groups:
            self._macros[group.macro_id] = list(group.instance_ids)
            self._draining |= dict.fromkeys(group.draining, group.macro_id)
        effects: list[ScalingEffect] = []
        for macro_id in list(self._macros):
            while len(self._macros[macro_id]) > self.settings.n_upper:
                self._split(macro_id, effects)
        self._settle(effects)
        return effects

    # Looking in

    @property
    def macros(self) -> dict[str, tuple[str, ...]]:
        """Active instances of each macro-instance, in order of joining."""
        return {macro_id: tuple(members) for macro_id, members in self._macros.items()}

    @property
    def draining(self) -> tuple[str, ...]:
        """Instances that finish what they have, the last to be drained at the end."""
        return tuple(self._draining)

    @property
    def num_active(self) -> int:
        """Instances that take requests."""
        return sum(len(members) for members in self._macros.values())

    def drains_from(self, instance_id: str) -> str | None:
        """The macro-instance that answers for a draining instance until it is gone."""
        return self._draining.get(instance_id)

    def macro_of(self, instance_id: str) -> str | None:
        """The macro-instance that an active instance belongs to; O(instances)."""
        for macro_id, members in self._macros.items():
            if instance_id in members:
                return macro_id
        return None

    # Expansion

    def call_back(self) -> list[ScalingEffect]:
        """The instance that was drained last takes requests again; nothing if none drains."""
        if not self._draining:
            return []
        return self.add(next(reversed(self._draining)))

    def add(self, instance_id: str) -> list[ScalingEffect]:
        """A new instance, or a draining one, joins; nothing happens if it is active."""
        if self.macro_of(instance_id) is not None:
            return []
        drained_from_id = self._draining.pop(instance_id, None)
        effects: list[ScalingEffect] = []
        macro_id = self._growing()
        if macro_id is None:
            macro_id = self._create(effects)
        self._macros[macro_id].append(instance_id)
        effects.append(
            Join(instance_id=instance_id, macro_id=macro_id, drained_from_id=drained_from_id)
        )
        if len(self._macros[macro_id]) > self.settings.n_upper:
            self._split(macro_id, effects)
        return effects

    def _growing(self) -> str | None:
        """The oldest macro-instance with room; when all are full the newest, which splits."""
        for macro_id, members in self._macros.items():
            if len(members) < self.settings.n_upper:
                return macro_id
        return next(reversed(self._macros), None)

    def _split(self, macro_id: str, effects: list[ScalingEffect]) -> None:
        """The last `n_lower` to join become a macro-instance of their own."""
        new_id = self._create(effects)
        leaving = self._macros[macro_id][-self.settings.n_lower :]
        for instance_id in leaving:
            self._move(instance_id, macro_id, new_id, effects)

    # Contraction

    def contract(self, loads: Mapping[str, float] | None = None) -> list[ScalingEffect]:
        """One instance drains, and macro-instances merge where they may; nothing if one is left.

        Args:
            loads: what the instances still have to do, in any unit; the least loaded of the
                macro-instance goes, among equals the last to join. An absent one has nothing to do.
        """
        if self.num_active <= 1:
            return []
        effects: list[ScalingEffect] = []
        macro_id = self._shrinking()
        members, work = self._macros[macro_id], loads or {}
        instance_id = min(reversed(members), key=lambda member: work.get(member, 0.0))
        members.remove(instance_id)
        self._draining[instance_id] = macro_id
        effects.append(Drain(instance_id=instance_id, macro_id=macro_id))
        self._settle(effects)
        return effects

    def _shrinking(self) -> str:
        """The smallest that has more than `n_lower`, among equals the newest.

        It is the paper's rule: the smallest of all until it has `n_lower`, then a full one. When
        one less lets the two smallest merge, the larger of them gives it.
        """
        if len(self._macros) == 1:
            return next(iter(self._macros))
        smallest = self._smallest()
        if self._size(*smallest[:2]) <= self.settings.n_upper + 1:
            return max(smallest[:2], key=self._size)
        return next(m for m in smallest if self._size(m) > self.settings.n_lower)

    def finished(self, instance_id: str) -> bool:
        """A draining instance has nothing left and may go; False if it does not drain."""
        return self._draining.pop(instance_id, None) is not None

    # Failure

    def lost(self, instance_id: str) -> list[ScalingEffect]:
        """An instance is gone without having drained; nothing happens if it is not known."""
        effects: list[ScalingEffect] = []
        if self._draining.pop(instance_id, None) is None:
            macro_id = self.macro_of(instance_id)
            if macro_id is not None:
                self._macros[macro_id].remove(instance_id)
                self._settle(effects)
        return effects

    # Keeping the bounds

    def _size(self, *macro_ids: str) -> int:
        return sum(len(self._macros[macro_id]) for macro_id in macro_ids)

    def _smallest(self) -> list[str]:
        """All, the smallest first, among equals the newest first."""
        newest_first = list(reversed(self._macros))
        return sorted(newest_first, key=self._size)

    def _settle(self, effects: list[ScalingEffect]) -> None:
        """Merges the two smallest while they fit into one; lends to one that is too small."""
        while len(self._macros) > 1:
            first, second, *_ = smallest = self._smallest()
            if self._size(first, second) <= self.settings.n_upper:
                self._merge(first, second, effects)
            elif self._size(first) < self.settings.n_lower:
                self._move(self._macros[smallest[-1]][-1], smallest[-1], first, effects)
            else:
                return

    def _merge(self, source_id: str, target_id: str, effects: list[ScalingEffect]) -> None:
        """The younger goes into the older, whichever is smaller."""
        order = list(self._macros)
        if order.index(source_id) < order.index(target_id):
            source_id, target_id = target_id, source_id
        for instance_id in list(self._macros[source_id]):
            self._move(instance_id, source_id, target_id, effects)
        for instance_id, drained_from_id in self._draining.items():
            if drained_from_id == source_id:
                self._draining[instance_id] = target_id
        del self._macros[source_id]
        effects.append(Remove(macro_id=source_id, heir_id=target_id))

    def _create(self, effects: list[ScalingEffect]) -> str:
        macro_id = next(name for name in self._names if name not in self._macros)
        self._macros[macro_id] = []
        effects.append(Create(macro_id=macro_id))
        return macro_id

    def _move(
        self, instance_id: str, source_id: str, target_id: str, effects: list[ScalingEffect]
    ) -> None:
        self._macros[source_id].remove(instance_id)
        self._macros[target_id].append(instance_id)
        effects.append(Move(instance_id=instance_id, source_id=source_id, target_id=target_id))

    def check_invariants(self) -> None:
        """Raises InvariantError when an instance is in two places or a size is out of bounds."""
        seen = [i for members in self._macros.values() for i in members] + list(self._draining)
        if len(seen) != len(set(seen)):
            raise InvariantError("mitosis: an instance is in two places")
        if any(macro_id not in self._macros for macro_id in self._draining.values()):
            raise InvariantError("mitosis: an instance drains from nowhere")
        sizes = [len(members) for members in self._macros.values()]
        if any(size > self.settings.n_upper for size in sizes):
            raise InvariantError(f"mitosis: a macro-instance is too large: {sizes}")
        if len(sizes) > 1 and min(sizes) < self.settings.n_lower:
            raise InvariantError(f"mitosis: a macro-instance is too small: {sizes}")
        if len(sizes) > 1 and sum(sorted(sizes)[:2]) <= self.settings.n_upper:
            raise InvariantError(f"mitosis: two macro-instances should have merged: {sizes}")
