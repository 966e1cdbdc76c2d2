"""Mitosis keeps its bounds and loses nobody, whatever the order of events."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rondo.policy import mitosis as mt
from rondo.policy.mitosis import Mitosis, MitosisSettings


class Cluster(RuleBasedStateMachine):
    """Follows the effects, and so knows where everybody should be."""

    @initialize(lower=st.integers(1, 5), extra=st.integers(0, 6))
    def start(self, lower: int, extra: int) -> None:
        self.bounds = MitosisSettings(n_lower=lower, n_upper=2 * lower - 1 + extra)
        self.mitosis = Mitosis(self.bounds)
        self.places: dict[str, str | None] = {}  # None: draining
        self.macros: set[str] = set()
        self.count = 0

    def follow(self, effects: list[mt.ScalingEffect]) -> None:
        for effect in effects:
            match effect:
                case mt.Create(macro_id=macro_id):
                    assert macro_id not in self.macros
                    self.macros.add(macro_id)
                case mt.Remove(macro_id=macro_id):
                    assert macro_id not in self.places.values()
                    self.macros.remove(macro_id)
                case mt.Join(instance_id=instance_id, macro_id=macro_id):
                    assert self.places.get(instance_id) is None
                    assert macro_id in self.macros
                    self.places[instance_id] = macro_id
                case mt.Drain(instance_id=instance_id, macro_id=macro_id):
                    assert self.places[instance_id] == macro_id
                    self.places[instance_id] = None
                case mt.Move(instance_id=instance_id, source_id=source_id, target_id=target_id):
                    assert self.places[instance_id] == source_id != target_id
                    assert target_id in self.macros
                    self.places[instance_id] = target_id

    @rule()
    def expand(self) -> None:
        effects = self.mitosis.call_back()
        if not effects:
            self.count += 1
            effects = self.mitosis.add(f"i{self.count}")
        self.follow(effects)

    @rule()
    def contract(self) -> None:
        before = self.mitosis.num_active
        self.follow(self.mitosis.contract())
        assert self.mitosis.num_active == max(min(before, 1), before - 1)

    @precondition(lambda self: self.mitosis.draining)
    @rule(number=st.integers(0, 100))
    def finish(self, number: int) -> None:
        instance_id = self.mitosis.draining[number % len(self.mitosis.draining)]
        assert self.mitosis.finished(instance_id)
        del self.places[instance_id]

    @precondition(lambda self: self.places)
    @rule(number=st.integers(0, 100))
    def die(self, number: int) -> None:
        instance_id = sorted(self.places)[number % len(self.places)]
        effects = self.mitosis.lost(instance_id)
        del self.places[instance_id]
        self.follow(effects)

    @rule()
    def add_twice(self) -> None:
        for instance_id in sorted(i for i, place in self.places.items() if place)[:1]:
            assert self.mitosis.add(instance_id) == []

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "mitosis"):
            return
        self.mitosis.check_invariants()
        told: dict[str, str | None] = dict.fromkeys(self.mitosis.draining)
        told |= {i: m for m, members in self.mitosis.macros.items() for i in members}
        assert told == self.places


Cluster.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestMitosis = Cluster.TestCase
