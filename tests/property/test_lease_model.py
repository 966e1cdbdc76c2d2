"""A model of coordinators that compete over a network that does what it likes.

What is assumed, and no more: the store takes one compare-and-set after the other and keeps what it
has taken; clocks are monotonic and run at rates within 2.5 % of true; a contender looks at its
clock before it acts (`Lease.owned`). Everything else happens: requests that come late, out of
order or never, answers that are lost though the write was made, updates of the watch in any order
or not at all, timers that fire late, cut-off contenders, crashes, and new processes with old ids.

Three searches: Hypothesis plays all of this, and finds the shortest story where a promise breaks;
seeded players, who know that a network delivers more often than it fails, tell many more; and from
the moment at which one owns and another comes, every order of the next events is tried.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rondo_coordinator import lease_events as ev
from rondo_coordinator import lease_rules as lr

LEASE_S = 1.0
TIMEOUT_S = LEASE_S / 3
DRIFT = 0.025
NAMES = ("a", "b", "c")
#: Events of which every order is tried.
DEPTH = 8
#: The first is what shrinking leads to; some come more often than others.
FAULTS = (
    *("touch", "cut off", "letter lost", "cut off", "letter lost", "cut off", "letter lost"),
    *("watch anew", "start", "crash", "all paused", "stop"),
)


@dataclass(slots=True)
class Store:
    """One key with a revision: what JetStream is to the coordinators."""

    claim: ev.Claim | None = None
    revision: int = 0
    owners: dict[int, str] = field(default_factory=dict)
    epochs: list[int] = field(default_factory=list)

    def write(self, write: ev.Write) -> bool:
        if write.revision != (self.revision if self.claim else 0):
            return False
        claim = write.claim
        self.claim, self.revision = claim, self.revision + 1
        if claim.owner_id:
            assert self.owners.setdefault(claim.epoch, claim.owner_id) == claim.owner_id
        assert claim.epoch >= max(self.epochs, default=0), "epochs only grow"
        self.epochs.append(claim.epoch)
        return True


@dataclass(slots=True)
class Contender:
    """One process: the rules on a clock of its own, and what it waits for."""

    name: str
    life: int
    offset_s: float
    rate: float
    rules: lr.LeaseRules
    call: int = 0  # the request whose answer it waits for
    gives_up_s: float = math.inf
    wake_s: float = math.inf
    watermark: int = 0  # the revision that its watch was last told of
    updates: list[tuple[ev.Claim | None, int]] = field(default_factory=list)
    acting: int | None = None  # the epoch it was told to act under
    top_epoch: int = 0
    stopped: bool = False
    ended: bool = False

    def clock_s(self, true_s: float) -> float:
        return self.offset_s + true_s * self.rate

    def owns(self, true_s: float) -> bool:
        return self.rules.owned and self.clock_s(true_s) < self.rules.expires_s


@dataclass(slots=True)
class Letter:
    """A request on its way to the store, or its answer on the way back."""

    sender: Contender
    call: int
    request: ev.Write | ev.Read
    answer: tuple[Any, ...] | None = None  # an event without its time, once there is one


class World:
    """The store, the contenders, and everything between them."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.store = Store()
        self.contenders: dict[str, Contender] = {}
        self.letters: list[Letter] = []
        self.cut_off: list[str] = []
        self.calls = 0
        self.lives = 0

    def start(self, name: str, offset_s: float, rate: float) -> None:
        """A process starts; its watch begins with what the store has."""
        self.lives += 1
        rules = lr.LeaseRules(name, LEASE_S, first_beat=self.lives * 10_000)
        contender = Contender(name, self.lives, offset_s, rate, rules)
        self.contenders[name] = contender
        contender.watermark = self.store.revision
        if self.store.claim:
            self.feed(contender, ev.Saw, self.store.claim, self.store.revision)
        self.feed(contender, ev.Clock)

    def crash(self, name: str) -> None:
        self.contenders.pop(name)  # its letters stay underway

    def feed(self, contender: Contender, kind: type, *values: object) -> None:
        """Tells a contender of an event, and does what it wants."""
        if contender.ended:
            return
        event = kind(contender.clock_s(self.now_s), *values)
        decision = contender.rules.handle(event)
        contender.wake_s = math.inf if decision.wake_at_s is None else decision.wake_at_s
        for effect in decision.effects:
            self._perform(contender, effect)

    def _perform(self, contender: Contender, effect: ev.Effect) -> None:
        match effect:
            case ev.Write() | ev.Read():
                assert not contender.call, "two calls at once"
                self.calls += 1
                contender.call = self.calls
                contender.gives_up_s = contender.clock_s(self.now_s) + TIMEOUT_S
                self.letters.append(Letter(contender, self.calls, effect))
            case ev.Acquired(epoch=epoch):
                assert contender.acting is None
                assert not contender.stopped
                assert epoch > contender.top_epoch, "what was lost does not come back"
                contender.acting = contender.top_epoch = epoch
            case ev.Lost():
                assert contender.acting is not None
                contender.acting = None
            case ev.Ended():
                contender.ended = True

    # What the network and the clocks do

    def arrive(self, letter: Letter) -> None:
        """A request reaches the store; what changed is on its way to every watch."""
        request = letter.request
        if isinstance(request, ev.Read):
            letter.answer = (ev.Found, self.store.claim, self.store.revision)
            return
        if self.store.write(request):
            letter.answer = (ev.WriteOk, self.store.revision)
            for contender in self.contenders.values():
                contender.updates.append((self.store.claim, self.store.revision))
        else:
            letter.answer = (ev.WriteConflict,)

    def answer(self, letter: Letter) -> None:
        """An answer reaches whoever asked, if that still waits for it."""
        self.letters.remove(letter)
        asker = letter.sender
        if self.contenders.get(asker.name) is asker and asker.call == letter.call:
            self._hang_up(asker)
            assert letter.answer
            self.feed(asker, *letter.answer)

    def update(self, contender: Contender, index: int) -> None:
        claim, revision = contender.updates.pop(index)
        contender.watermark = max(contender.watermark, revision)
        self.feed(contender, ev.Saw, claim, revision)

    def rewatch(self, contender: Contender) -> None:
        """The watch was lost, with what it had to say, and begins anew with what there is."""
        contender.updates.clear()
        if self.store.claim:
            self.feed(contender, ev.Saw, self.store.claim, self.store.revision)

    def next_timer_s(self) -> float:
        """The true instant of the first timer of all."""
        return min(
            (
                (min(c.wake_s, c.gives_up_s) - c.offset_s) / c.rate
                for c in self.contenders.values()
                if not c.ended
            ),
            default=math.inf,
        )

    def deliveries(self) -> list[Callable[[], None]]:
        """All that may arrive next."""
        found: list[Callable[[], None]] = [
            partial(self.answer if letter.answer else self.arrive, letter)
            for letter in self.letters
            if letter.sender.name not in self.cut_off
        ]
        for contender in self.contenders.values():
            if contender.name not in self.cut_off:
                num_updates = len(contender.updates)
                found += [partial(self.update, contender, index) for index in range(num_updates)]
        return found

    def clone(self) -> World:
        """The same again; nobody may have crashed."""
        other = copy.copy(self)
        other.store = replace(
            self.store, owners=dict(self.store.owners), epochs=list(self.store.epochs)
        )
        other.contenders = {
            name: replace(one, rules=copy.copy(one.rules), updates=list(one.updates))
            for name, one in self.contenders.items()
        }
        other.letters = [
            replace(letter, sender=other.contenders[letter.sender.name]) for letter in self.letters
        ]
        return other

    def key(self) -> int:
        """Equal for worlds in which the same can happen next."""
        contenders = tuple(
            (one.call, one.gives_up_s, tuple(one.updates), one.acting, repr(vars(one.rules)))
            for one in self.contenders.values()
        )
        letters = tuple((one.call, one.answer) for one in self.letters)
        return hash((round(self.now_s, 6), self.store.claim, contenders, letters))

    def toggle(self, name: str) -> None:
        """Cuts a contender off from the store, or lets it back."""
        (self.cut_off.remove if name in self.cut_off else self.cut_off.append)(name)

    def pass_time(self, most_s: float) -> None:
        """To the first timer, which fires, but `most_s` at most."""
        timer_s = max(self.now_s, self.next_timer_s())
        if timer_s > self.now_s + most_s:
            self.now_s += most_s
        elif timer_s < math.inf:
            self.now_s = timer_s + 1e-9
            self.check()
            for contender in list(self.contenders.values()):
                self.ring(contender)

    def ring(self, contender: Contender) -> None:
        """Fires a contender's timers that are due."""
        at_s = contender.clock_s(self.now_s)
        if at_s >= contender.gives_up_s:
            self._hang_up(contender)
            self.feed(contender, ev.Failed)
        if at_s >= contender.wake_s:
            self.feed(contender, ev.Clock)

    def _hang_up(self, contender: Contender) -> None:
        contender.call, contender.gives_up_s = 0, math.inf

    def check(self) -> None:
        """The promise: one owner at a time, and it is told so."""
        owners = [c for c in self.contenders.values() if c.owns(self.now_s)]
        assert len(owners) <= 1, [(c.name, c.rules.epoch) for c in owners]
        for contender in owners:
            assert contender.acting == contender.rules.epoch
            assert self.store.owners[contender.rules.epoch] == contender.name
            claim = self.store.claim
            assert claim is None or claim.epoch == contender.rules.epoch

    def settle(self, for_s: float) -> None:
        """No faults any more: everything is delivered at once, and timers fire in time."""
        until_s = self.now_s + for_s
        while True:
            self.check()
            if self.letters:
                letter = self.letters[0]
                (self.answer if letter.answer else self.arrive)(letter)
            elif waiting := [c for c in self.contenders.values() if c.updates]:
                self.update(waiting[0], 0)
            elif self.next_timer_s() < until_s:
                self.pass_time(math.inf)
            else:
                return


class Coordinators(RuleBasedStateMachine):
    """Hypothesis plays network, clocks and operator."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize(
        rates=st.lists(st.sampled_from([1 - DRIFT, 1.0, 1 + DRIFT]), min_size=3, max_size=3)
    )
    def begin(self, rates: list[float]) -> None:
        self.rates = dict(zip(NAMES, rates, strict=True))
        for name in NAMES[:2]:
            self.start(name)

    def start(self, name: str) -> None:
        self.world.start(name, 1000.0 * NAMES.index(name) + self.world.lives, self.rates[name])

    @rule(data=st.data())
    @precondition(lambda self: self.world.deliveries())
    def something_arrives(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.world.deliveries()))()

    @rule(data=st.data())
    @precondition(lambda self: self.world.letters)
    def a_call_arrives(self, data: st.DataObject) -> None:
        letter = data.draw(st.sampled_from(self.world.letters))
        if letter.sender.name not in self.world.cut_off:
            (self.world.answer if letter.answer else self.world.arrive)(letter)

    @rule()
    def the_next_timer_fires(self) -> None:
        self.world.pass_time(math.inf)

    @rule(share=st.sampled_from([0.04, 0.3]))
    def time_goes_on(self, share: float) -> None:
        self.world.pass_time(share * LEASE_S)

    @rule(data=st.data(), name=st.sampled_from(NAMES), fault=st.sampled_from(FAULTS))
    def a_fault(self, data: st.DataObject, name: str, fault: str) -> None:
        world = self.world
        contender = world.contenders.get(name)
        match fault:
            case "letter lost" if world.letters:
                world.letters.remove(data.draw(st.sampled_from(world.letters)))
            case "cut off":
                world.toggle(name)
            case "all paused":  # timers will be late, in any order with what else happens
                world.now_s += data.draw(st.sampled_from([0.3, 1.0, 2.5])) * LEASE_S
            case "crash" if contender:
                world.crash(name)
            case "crash" | "start" if not contender:
                self.start(name)
            case "stop" if contender:
                contender.stopped = True
                world.feed(contender, ev.Stop)
            case "touch" if contender:
                world.feed(contender, ev.Touch)
            case "watch anew" if contender and name not in world.cut_off:
                world.rewatch(contender)

    @invariant()
    def one_owner(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        settle_and_stop(self.world, self.rates)


def settle_and_stop(world: World, rates: dict[str, float]) -> None:
    """Once faults are over, somebody owns within a lease and a beat; and hands over at once."""
    world.cut_off.clear()
    for name in NAMES:
        if name in world.contenders and world.contenders[name].stopped:
            world.crash(name)
    if not world.contenders:
        world.start("a", 0.0, rates["a"])
    patience_s = LEASE_S * (1 + 1 / lr.BEATS_PER_LEASE) * (1 + 2 * DRIFT)
    world.settle(patience_s)
    [owner] = [c for c in world.contenders.values() if c.owns(world.now_s)]
    owner.stopped = True
    world.feed(owner, ev.Stop)
    world.settle(0.01 * LEASE_S)
    assert owner.ended
    others = [c for c in world.contenders.values() if c is not owner]
    assert not others or any(c.owns(world.now_s) for c in others)


TestCoordinators = Coordinators.TestCase
TestCoordinators.settings = settings(
    max_examples=40,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class Player:
    """Chooses what happens next, by a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.world = World()
        self.rates = {name: self.rng.choice([1 - DRIFT, 1.0, 1 + DRIFT]) for name in NAMES}
        for name in NAMES[: self.rng.choice([2, 3])]:
            self.start(name)

    def start(self, name: str) -> None:
        self.world.start(name, self.rng.uniform(0, 1000), self.rates[name])

    def play(self, num_steps: int) -> None:
        kinds = ["arrives", "timer", "time", "letter lost", "cut off", "other"]
        for kind in self.rng.choices(kinds, weights=[60, 20, 5, 5, 4, 2], k=num_steps):
            self.step(kind)
            self.world.check()

    def step(self, kind: str) -> None:
        world, rng = self.world, self.rng
        match kind:
            case "arrives" if waiting := world.deliveries():
                rng.choice(waiting)()
            case "timer":
                world.pass_time(math.inf)
            case "time":
                world.pass_time(rng.uniform(0.0, 0.3) * LEASE_S)
            case "letter lost" if world.letters:
                world.letters.remove(rng.choice(world.letters))
            case "cut off":
                world.toggle(rng.choice(NAMES))
            case "other":
                self.disturb(rng.choice(NAMES))

    def disturb(self, name: str) -> None:
        world, contender = self.world, self.world.contenders.get(name)
        if contender is None:
            self.start(name)
            return
        match self.rng.choice(["crash", "stop", "touch", "watch anew", "all paused"]):
            case "crash":
                world.crash(name)
            case "stop":
                contender.stopped = True
                world.feed(contender, ev.Stop)
            case "touch":
                world.feed(contender, ev.Touch)
            case "watch anew":
                world.rewatch(contender)
            case "all paused":
                world.now_s += self.rng.uniform(0.0, 2.5) * LEASE_S


@pytest.mark.parametrize("first_seed", range(0, 1000, 250))
def test_seeded_players_find_no_two_owners(first_seed: int) -> None:
    num_epochs = 0
    for seed in range(first_seed, first_seed + 250):
        player = Player(seed)
        player.play(80)
        settle_and_stop(player.world, player.rates)
        num_epochs += len(player.world.store.owners)
    assert num_epochs > 600  # ownership did change hands


def test_who_saw_an_owner_waits_its_lease_out_when_the_store_is_empty() -> None:
    rules = lr.LeaseRules("a", LEASE_S, first_beat=10)
    assert rules.handle(ev.Saw(5.0, ev.Claim("b", 3, 99), 7)).wake_at_s == 5.0 + LEASE_S
    assert rules.handle(ev.Saw(5.5, None, 7)) == ev.Decision((), 5.0 + LEASE_S)
    [write] = rules.handle(ev.Clock(5.0 + LEASE_S)).effects
    assert isinstance(write, ev.Write)
    assert write.claim.epoch == 4


def test_an_answer_that_is_lost_costs_no_ownership() -> None:
    """The renewal was made though nobody said so: the watch, or a read, tells."""
    for seen in (ev.Saw, ev.Found):
        rules = lr.LeaseRules("a", LEASE_S, first_beat=10)
        rules.handle(ev.Clock(0.0))
        rules.handle(ev.WriteOk(0.0, 1))
        beat_s = LEASE_S / lr.BEATS_PER_LEASE
        [renewal] = rules.handle(ev.Clock(beat_s)).effects
        assert isinstance(renewal, ev.Write)
        if seen is ev.Found:
            [again] = rules.handle(ev.Failed(2 * beat_s)).effects
            assert again == ev.Write(ev.Claim("a", 1, 13), 1)
            assert rules.handle(ev.WriteConflict(2 * beat_s)).effects == (ev.Read(),)
        rules.handle(seen(2.1 * beat_s, renewal.claim, 2))
        assert rules.owned
        assert rules.expires_s == beat_s + LEASE_S * lr.HOLD_SHARE


def test_a_revision_that_goes_back_is_looked_up() -> None:
    """It is out of order, or the store was lost and began anew."""
    rules = lr.LeaseRules("a", LEASE_S, first_beat=10)
    rules.handle(ev.Saw(0.0, ev.Claim("b", 3, 99), 7))
    assert rules.handle(ev.Saw(0.1, ev.Claim("c", 1, 50), 1)).effects == (ev.Read(),)
    decision = rules.handle(ev.Found(0.2, ev.Claim("c", 1, 50), 1))
    assert decision == ev.Decision((), 0.2 + LEASE_S)
    [write] = rules.handle(ev.Clock(0.2 + LEASE_S)).effects
    assert write == ev.Write(ev.Claim("a", 4, 11), 1)


def test_every_order_of_events_between_an_owner_and_a_newcomer() -> None:
    """What may arrive may also be late: time goes on to the next timer before it, or after it."""
    world = World()
    world.start("slow", 0.0, 1 - DRIFT)
    while world.letters:
        world.deliveries()[0]()
    world.start("fast", 0.0, 1 + DRIFT)
    frontier, seen, most_owners = [world], {world.key()}, 0
    for _ in range(DEPTH):
        following: list[World] = []
        for world in frontier:
            for choice in range(len(world.deliveries()) + 1):
                then = world.clone()
                arrivals = then.deliveries()
                arrivals[choice]() if choice < len(arrivals) else then.pass_time(math.inf)
                then.check()
                if (key := then.key()) not in seen:
                    seen.add(key)
                    following.append(then)
        frontier = following
        most_owners = max(most_owners, *(len(world.store.owners) for world in frontier))
    assert most_owners > 1  # it was taken over in some of them
    assert len(seen) > 1000
