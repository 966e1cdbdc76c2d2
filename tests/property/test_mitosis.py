"""Mitosis keeps its bounds and loses nobody; its trigger never flaps under constant load."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rondo.policy import mitosis as mt
from rondo.policy.mitosis import Mitosis, MitosisSettings
from rondo.policy.scaling import ScalingTrigger, Verdict, Window


class Cluster(RuleBasedStateMachine):
    """Follows the effects, and so knows where everybody should be."""

    @initialize(lower=st.integers(1, 5), extra=st.integers(0, 6))
    def start(self, lower: int, extra: int) -> None:
        self.bounds = MitosisSettings(n_lower=lower, n_upper=2 * lower - 1 + extra)
        self.mitosis = Mitosis(self.bounds)
        self.places: dict[str, str | None] = {}  # None: draining
        self.drains: dict[str, str] = {}  # who answers for what drains
        self.macros: set[str] = set()
        self.count = 0

    def follow(self, effects: list[mt.ScalingEffect]) -> None:
        for effect in effects:
            match effect:
                case mt.Create(macro_id=macro_id):
                    assert macro_id not in self.macros
                    self.macros.add(macro_id)
                case mt.Remove(macro_id=macro_id, heir_id=heir_id):
                    assert macro_id not in self.places.values()
                    self.macros.remove(macro_id)
                    assert heir_id in self.macros
                    for instance_id, drained_from_id in self.drains.items():
                        if drained_from_id == macro_id:
                            self.drains[instance_id] = heir_id
                case mt.Join(instance_id=instance_id, macro_id=macro_id):
                    assert self.places.get(instance_id) is None
                    assert macro_id in self.macros
                    assert self.drains.pop(instance_id, None) == effect.drained_from_id
                    self.places[instance_id] = macro_id
                case mt.Drain(instance_id=instance_id, macro_id=macro_id):
                    assert self.places[instance_id] == macro_id
                    self.places[instance_id] = None
                    self.drains[instance_id] = macro_id
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

    @rule(loads=st.dictionaries(st.integers(1, 20).map("i{}".format), st.floats(0, 9)))
    def contract(self, loads: dict[str, float]) -> None:
        before = self.mitosis.num_active
        self.follow(self.mitosis.contract(loads))
        assert self.mitosis.num_active == max(min(before, 1), before - 1)

    @precondition(lambda self: self.mitosis.draining)
    @rule(number=st.integers(0, 100))
    def finish(self, number: int) -> None:
        instance_id = self.mitosis.draining[number % len(self.mitosis.draining)]
        assert self.mitosis.finished(instance_id)
        del self.places[instance_id], self.drains[instance_id]

    @precondition(lambda self: self.places)
    @rule(number=st.integers(0, 100))
    def die(self, number: int) -> None:
        instance_id = sorted(self.places)[number % len(self.places)]
        effects = self.mitosis.lost(instance_id)
        del self.places[instance_id]
        self.drains.pop(instance_id, None)
        self.follow(effects)

    @rule(number=st.integers(1, 20))
    def join_again(self, number: int) -> None:
        """One that died, drains or was never here joins; an active one changes nothing."""
        instance_id = f"i{number}"
        active = self.places.get(instance_id) is not None
        effects = self.mitosis.add(instance_id)
        assert bool(effects) is not active
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
        for instance_id, macro_id in self.drains.items():
            assert self.mitosis.drains_from(instance_id) == macro_id

    def teardown(self) -> None:
        """What drains ends, and all the way down the cluster stays sound."""
        while hasattr(self, "mitosis") and self.mitosis.num_active > 1:
            self.contract({})
            self.agrees()
        for _ in range(len(getattr(self, "drains", ()))):
            self.finish(0)


Cluster.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestMitosis = Cluster.TestCase


@given(lower=st.integers(1, 8), extra=st.integers(0, 8), count=st.integers(1, 60))
def test_contraction_goes_back_the_way_that_expansion_came(
    lower: int, extra: int, count: int
) -> None:
    mitosis = Mitosis(MitosisSettings(n_lower=lower, n_upper=2 * lower - 1 + extra))
    up, down = [], []
    for index in range(count):
        mitosis.add(f"i{index}")
        up.append([len(members) for members in mitosis.macros.values()])
    for _ in range(count):
        down.append([len(members) for members in mitosis.macros.values()])
        mitosis.contract()
    assert down == up[::-1]


def sizes_over_time(
    load: float, start: int, seed: int, rate: float, saved_s: float | None, num_windows: int
) -> list[int]:
    """A cluster under constant load: a queue that backs up, with noise on all that is seen.

    Args:
        load: what it takes, in instances.
        rate: requests/s that an instance serves. Arrivals vary by 1.5 standard deviations of
            Poisson's.
        saved_s: mean saved TPOT whatever the load, as with long answers, where the used share
            alone tells; None: it falls with the load, and the used share is not known.
    """
    trigger, rng, num, backlog_s = ScalingTrigger(), random.Random(seed), start, 0.0
    sizes = [num]
    for index in range(num_windows):
        mean = load * rate * 30
        served = max(0, round(rng.gauss(mean, 1.5 * mean**0.5)))
        used = served / (rate * 30) / num
        backlog_s = max(0.0, backlog_s + 30 * (used - 0.97))
        ttft_s = (0.3 / (1 - min(used, 0.97)) + backlog_s) * rng.lognormvariate(0, 0.2)
        free_s = 12 * max(0.0, 1 - used) if saved_s is None else saved_s
        window = Window(
            at_s=30.0 * index,
            duration_s=30.0,
            num_instances=num,
            mean_ttft_s=ttft_s,
            mean_saved_tpot_s=free_s * rng.uniform(0.9, 1.1),
            ttft_limit_s=5.0,
            num_served=served,
            num_refused=0,
            used_share=None if saved_s is None else min(1.0, used * rng.uniform(0.9, 1.1)),
        )
        verdict = trigger.observe(window).verdict
        num += {Verdict.EXPAND: 1, Verdict.CONTRACT: -1, Verdict.HOLD: 0}[verdict]
        sizes.append(num)
    return sizes


def steps(sizes: list[int]) -> list[int]:
    return [b - a for a, b in pairwise(sizes) if a != b]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    load=st.floats(0.1, 12),
    start=st.integers(1, 24),
    seed=st.integers(0, 10**6),
    rate=st.sampled_from([1.0, 5.0, 20.0]),
)
def test_constant_load_never_flaps(load: float, start: int, seed: int, rate: float) -> None:
    sizes = sizes_over_time(load, start, seed, rate, 30.0, 10_000)
    assert len(set(steps(sizes))) <= 1, "it went both ways"
    assert sizes[-1] >= load
    assert len(steps(sizes[-5000:])) <= 1, "it never settled"


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    load=st.floats(0.1, 12),
    start=st.integers(1, 24),
    seed=st.integers(0, 10**6),
    rate=st.sampled_from([1.0, 5.0, 20.0]),
)
def test_without_the_used_share_it_errs_at_most_once(
    load: float, start: int, seed: int, rate: float
) -> None:
    changes = steps(sizes_over_time(load, start, seed, rate, None, 10_000))
    assert sum(a != b for a, b in pairwise(changes)) <= 1
