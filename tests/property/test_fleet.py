"""Whoever comes, goes, comes back or takes over: every instance has one place, in sizes allowed."""

from __future__ import annotations

from itertools import chain, count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rondo.policy.fleet import Fleet
from rondo.policy.mitosis import MitosisSettings, Move

BOUNDS = MitosisSettings(n_lower=2, n_upper=4)
GRACE_S = 10.0
INSTANCES = st.sampled_from([f"w{index}" for index in range(12)])


def names() -> chain[str]:
    return chain(["m"], (f"m__{number}" for number in count(2)))


class Fleets(RuleBasedStateMachine):
    """A decider, now and then replaced by one that knows only what the bucket says."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.there: set[str] = set()
        self.fleet = Fleet(names(), BOUNDS, (), GRACE_S)
        self.fleet.begin((), 0.0)

    def places(self) -> dict[str, str]:
        return {i: g.macro_id for g in self.fleet.groups for i in g.instance_ids}

    @rule(instance=INSTANCES)
    def come(self, instance: str) -> None:
        before = self.places()
        effects = self.fleet.came(instance)
        self.there.add(instance)
        if instance in before:
            assert not effects, "who comes back keeps its place"

    @rule(instance=INSTANCES)
    def go(self, instance: str) -> None:
        before = self.places()
        self.fleet.went(instance, self.now_s)
        self.there.discard(instance)
        assert self.places() == before, "nobody loses its place at once"

    @rule(seconds=st.floats(min_value=0.1, max_value=15.0))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.fleet.tick(self.now_s)
        away = set(self.places()) - self.there
        assert self.fleet.num_serving == len(self.places()) - len(away)
        if seconds >= GRACE_S:
            assert not away

    @rule()
    def expand(self) -> None:
        draining = self.fleet.draining
        effects = self.fleet.expand()
        assert bool(effects) == bool(draining)

    @rule(data=st.data())
    def contract(self, data: st.DataObject) -> None:
        num = len(self.places())
        loads = {i: float(data.draw(st.integers(0, 3))) for i in self.places()}
        effects = self.fleet.contract(loads)
        assert len(self.places()) == (num - 1 if num > 1 else num)
        assert bool(effects) == (num > 1)

    @rule(instance=INSTANCES)
    def finish(self, instance: str) -> None:
        drained = instance in self.fleet.draining
        assert self.fleet.idle(instance) == drained
        assert (instance in self.fleet.retired) >= drained

    @precondition(lambda self: self.fleet.groups)
    @rule()
    def take_over(self) -> None:
        before, draining = self.places(), self.fleet.draining
        self.fleet = Fleet(names(), BOUNDS, self.fleet.groups, GRACE_S)
        effects = self.fleet.begin(sorted(self.there), self.now_s)
        kept = {i: m for i, m in self.places().items() if i in before}
        moved = {effect.instance_id for effect in effects if isinstance(effect, Move)}
        assert {i: m for i, m in before.items() if i not in moved} == {
            i: m for i, m in kept.items() if i not in moved
        }
        # The record has an order in each macro-instance only: who of two is called back first may
        # change.
        assert sorted(self.fleet.draining) == sorted(draining)

    @invariant()
    def everybody_has_one_place(self) -> None:
        self.fleet.check_invariants()
        placed = [i for group in self.fleet.groups for i in group.instance_ids]
        assert len(placed) == len(set(placed))
        elsewhere = {*self.fleet.draining, *self.fleet.retired}
        assert not elsewhere & set(placed)
        assert self.there <= {*placed, *elsewhere}
        if self.fleet.groups:
            assert self.fleet.groups[0].macro_id == "m", "the first always stays"


TestFleets = Fleets.TestCase
TestFleets.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
