"""Instance policies: which prompt is next, what KV it gets, and what happens when it needs more."""

from __future__ import annotations

from random import Random

import pytest

from rondo.errors import ConfigError
from rondo.policy.econoserve import (
    INSTANCE_POLICY_NAMES,
    EconoSettings,
    make_instance_policy,
)
from rondo.policy.econoserve.loans import settle
from rondo.policy.econoserve.reserving import ReservingPolicy
from rondo.policy.econoserve.target import forward_tokens, prompt_budget
from rondo.policy.instance import InstanceScheduler
from rondo.policy.ledger import KvLedger
from rondo.policy.plan import Job
from rondo.types import Batching, BatchKind, Slo

SLO = Slo(ttft_s=1.0, tpot_s=0.1)
CHUNKED = Batching(kind=BatchKind.CHUNKED)
PLAIN = EconoSettings(reserve_share=0.0, headroom_share=0.0)


class Line:
    """Steps of a base time, and a time for each token beyond what is free."""

    def step_s(self, tokens: int, pairs: int, num_decodes: int, context_tokens: int) -> float:
        return 0.01 + 0.0001 * max(0, tokens + num_decodes - 64)


class Same:
    """A base time, and the same for each token."""

    def step_s(self, tokens: int, pairs: int, num_decodes: int, context_tokens: int) -> float:
        return 0.01 + 0.0001 * (tokens + num_decodes)


def instance(
    name: str, num_blocks: int = 10, econo: EconoSettings = PLAIN, max_prefill_tokens: int = 64
) -> InstanceScheduler:
    return InstanceScheduler(
        KvLedger(num_blocks, 4),
        max_running=50,
        max_prefill_tokens=max_prefill_tokens,
        policy=make_instance_policy(name, econo),
    )


def offer(
    scheduler: InstanceScheduler, *jobs: tuple[str, int, int, int], at_s: float = 0.0
) -> None:
    """Grants (name, prompt, most tokens, predicted tokens)."""
    for name, prompt, most, predicted in jobs:
        assert scheduler.add(Job(name, prompt, most, predicted, SLO, at_s)) is None
    scheduler.grant(1, [name for name, *_ in jobs], 1e9, at_s, CHUNKED)


def run(scheduler: InstanceScheduler, ends: dict[str, int], at_s: float = 0.0) -> list[str]:
    """Runs until nothing is left; who ended, in order. `ends` has how long answers become."""
    ended: list[str] = []
    tokens = dict.fromkeys(ends, 0)
    for _ in range(2000):
        plan = scheduler.plan(at_s)
        if plan is None:
            return ended
        jobs, gained = scheduler.board.jobs, scheduler.board.batch.gained
        for item in plan.items:
            job = jobs[item.request_id]
            tokens[item.request_id] += item.start + item.num_tokens == job.known + gained(job)
        stops = [name for name, end in ends.items() if name in jobs and tokens[name] >= end]
        ended += [done.request_id for done in scheduler.advance(plan, stops).finished]
        scheduler.check_invariants()
    raise AssertionError("it does not end")


def first_step(scheduler: InstanceScheduler) -> list[str]:
    plan = scheduler.plan(0.0)
    assert plan
    return [chunk.request_id for chunk in plan.chunks]


# Names and settings


def test_each_name_makes_its_policy() -> None:
    assert [make_instance_policy(name).name for name in INSTANCE_POLICY_NAMES] == list(
        INSTANCE_POLICY_NAMES
    )


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="'fastest' is none of block-growth, "):
        make_instance_policy("fastest")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("order", "longest"),
        ("pad", -0.1),
        ("groups", -1),
        ("buffer_steps", -1),
        ("reserve_share", 0.5),
        ("headroom_share", -0.1),
        ("forward_tokens", -1),
        ("elder_every", 1),
        ("patience_s", -1.0),
    ],
)
def test_a_bad_setting_is_named(setting: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        make_instance_policy("econoserve", EconoSettings(**{setting: value}))  # type: ignore[arg-type]
    assert caught.value.setting == setting


# Order


@pytest.mark.parametrize(
    ("name", "order", "expected"),
    [
        ("block-growth", "shortest", ["long", "short", "middle"]),
        ("max-length", "shortest", ["long", "short", "middle"]),
        ("shortest-first", "first-come", ["short", "middle", "long"]),
        ("econoserve", "shortest", ["short", "middle", "long"]),
        ("econoserve", "first-come", ["long", "short", "middle"]),
        ("econoserve", "longest-fit", ["long", "middle", "short"]),
        ("exact", "shortest", ["short", "middle", "long"]),
    ],
)
def test_which_prompt_is_first(name: str, order: str, expected: list[str]) -> None:
    econo = EconoSettings(order=order, reserve_share=0.0, headroom_share=0.0)
    scheduler = instance(name, num_blocks=100, econo=econo)
    offer(scheduler, ("long", 4, 40, 40), ("short", 4, 40, 3), ("middle", 4, 40, 20))
    assert first_step(scheduler) == expected


def test_weighted_prefers_the_smaller_prompt_of_equal_answers() -> None:
    scheduler = instance("econoserve", 100, EconoSettings(order="weighted"))
    offer(scheduler, ("big", 60, 20, 20), ("small", 4, 20, 20))
    assert first_step(scheduler)[0] == "small"


def test_longest_fit_takes_the_longest_that_fits() -> None:
    econo = EconoSettings(order="longest-fit", reserve_share=0.0, headroom_share=0.0)
    scheduler = instance("exact", num_blocks=10, econo=econo)
    offer(scheduler, ("runs", 4, 12, 12))  # 4 of 10 blocks
    assert first_step(scheduler) == ["runs"]
    offer(scheduler, ("ten", 4, 36, 36), ("five", 4, 16, 16), ("six", 4, 20, 20))
    plan = scheduler.plan(0.0)
    assert plan
    assert [chunk.request_id for chunk in plan.chunks] == ["runs", "six"]


def test_a_begun_prompt_is_finished_before_a_shorter_one_begins() -> None:
    scheduler = instance("shortest-first", 100, max_prefill_tokens=8)
    offer(scheduler, ("long", 20, 30, 30))
    plan = scheduler.plan(0.0)
    assert plan
    scheduler.advance(plan)
    offer(scheduler, ("short", 4, 2, 2))
    assert first_step(scheduler)[0] == "long"


@pytest.mark.parametrize("name", ["shortest-first", "exact", "econoserve"])
def test_nobody_waits_for_ever(name: str) -> None:
    """Shorter ones come faster than they are served, and still the long one is."""
    econo = EconoSettings(elder_every=4, patience_s=0.1)
    scheduler = instance(name, num_blocks=20, econo=econo)
    scheduler.max_running = 2
    offer(scheduler, ("busy", 4, 8, 8), ("busy too", 4, 8, 8))
    first_step(scheduler)
    ends = {"old": 30, "busy": 8, "busy too": 8}
    offer(scheduler, ("old", 8, 30, 30))
    random, began_before = Random(1), 0
    for number in range(400):
        short = f"r{number}"
        ends[short] = random.randint(2, 4)
        offer(scheduler, (short, 4, ends[short], ends[short]), at_s=0.1 * number)
        plan = scheduler.plan(0.1 * number)
        assert plan
        begun = [chunk.request_id for chunk in plan.chunks]
        if "old" in begun:
            break
        began_before += len(begun) * (number > 30)  # its patience: 0.1 s for each of 30 tokens
        scheduler.advance(plan)
    assert "old" in begun
    assert began_before <= 4


# Space


def test_max_length_keeps_room_for_the_longest_answer() -> None:
    scheduler = instance("max-length")
    offer(scheduler, ("a", 4, 20, 1), ("b", 4, 20, 1))  # 6 blocks each, were they so long
    assert first_step(scheduler) == ["a"]
    assert scheduler.space_use().reserved == 6


def test_exact_keeps_room_for_the_prediction() -> None:
    scheduler = instance("exact")
    offer(scheduler, ("a", 4, 30, 12), ("b", 4, 30, 12), ("c", 4, 30, 12))  # 4 blocks each
    assert first_step(scheduler) == ["a", "b"]
    use = scheduler.space_use()
    assert (use.used, use.reserved, use.owned, use.lent) == (2, 8, 8, 0)


def test_pipelining_lends_what_is_not_used_yet() -> None:
    """The long one needs all 10 blocks at its end; what ends before borrows of them."""
    scheduler = instance("econoserve")
    offer(scheduler, ("long", 4, 36, 36))
    assert first_step(scheduler) == ["long"]
    offer(scheduler, ("short", 4, 8, 8))
    plan = scheduler.plan(0.0)
    assert plan
    assert [chunk.request_id for chunk in plan.chunks] == ["long", "short"]
    use = scheduler.space_use()
    assert (use.owned, use.lent, use.borrowed) == (10, use.reserved - 10, use.lent)
    assert use.lent == 4  # 12 tokens, and 2 for the steps by which it may start later
    policy = scheduler.policy
    assert isinstance(policy, ReservingPolicy)
    assert {loan.borrower for loan in settle(policy.book.promised, 4).loans} == {"short"}
    alone = instance("exact")
    offer(alone, ("long", 4, 36, 36))
    first_step(alone)
    offer(alone, ("short", 4, 8, 8))
    assert first_step(alone) == ["long"]


def test_the_pad_is_added_to_the_prediction() -> None:
    scheduler = instance("exact", econo=EconoSettings(pad=0.5, reserve_share=0.0))
    offer(scheduler, ("a", 4, 30, 8))
    first_step(scheduler)
    assert scheduler.space_use().reserved == 4  # 4 + 12 tokens


def test_groups_end_together() -> None:
    econo = EconoSettings(groups=16, reserve_share=0.0, headroom_share=0.0)
    scheduler = instance("econoserve", num_blocks=100, econo=econo)
    offer(scheduler, ("a", 4, 60, 18), ("b", 4, 60, 20), ("c", 4, 60, 30))
    first_step(scheduler)
    policy = scheduler.policy
    assert isinstance(policy, ReservingPolicy)
    ends = {entry.end_step for entry in policy.book.promised}
    assert len(ends) == 1


def test_headroom_is_left_to_short_answers() -> None:
    econo = EconoSettings(headroom_share=0.4, reserve_share=0.0)
    scheduler = instance("exact", num_blocks=10, econo=econo)
    offer(scheduler, ("a", 4, 8, 8), ("b", 4, 8, 8), ("c", 4, 8, 8))  # 3 blocks each
    assert first_step(scheduler) == ["a", "b"]
    offer(scheduler, ("tiny", 4, 2, 2))
    assert "tiny" in first_step(scheduler)


def test_what_is_kept_back_is_for_answers_longer_than_predicted() -> None:
    econo = EconoSettings(reserve_share=0.2, headroom_share=0.0)
    scheduler = instance("exact", num_blocks=10, econo=econo)
    offer(scheduler, ("a", 4, 12, 12), ("b", 4, 12, 12), ("c", 4, 4, 4))  # 4, 4 and 2 blocks
    plan = scheduler.plan(0.0)
    assert plan
    assert [chunk.request_id for chunk in plan.chunks] == ["c", "a"]
    assert scheduler.space_use().kept_back == 2
    assert run(scheduler, {"a": 12, "b": 12, "c": 4}) == ["c", "a", "b"]
    assert scheduler.num_preempted == 0


@pytest.mark.parametrize("name", ["exact", "econoserve"])
def test_who_outgrows_its_prediction_waits_with_its_kv(name: str) -> None:
    scheduler = instance(name, num_blocks=8)
    offer(scheduler, ("wrong", 8, 20, 4), ("right", 8, 12, 12))  # 3 and 5 of 8 blocks
    most_paused = 0
    for _ in range(200):
        plan = scheduler.plan(0.0)
        if plan is None:
            break
        use = scheduler.space_use()
        most_paused = max(most_paused, use.num_paused)
        scheduler.advance(plan)
        scheduler.check_invariants()
    assert most_paused == 1
    assert scheduler.num_preempted == 0
    assert not scheduler.board.jobs


def test_when_all_are_paused_one_gives_its_blocks_up() -> None:
    scheduler = instance("exact", num_blocks=8)
    offer(scheduler, ("a", 12, 20, 4), ("b", 12, 20, 4))  # 4 blocks each; they turn out to need 8
    assert sorted(run(scheduler, {"a": 20, "b": 20})) == ["a", "b"]
    assert scheduler.num_preempted == 1
    assert scheduler.ledger.num_free == 8


def test_who_keeps_what_another_was_promised_gives_it_up_in_time() -> None:
    """It came first, and still it is not the younger one with the promise that is preempted."""
    scheduler = instance("econoserve", num_blocks=7)
    offer(scheduler, ("wrong", 8, 20, 4), ("right", 8, 12, 12))
    wrong, right = scheduler.board.jobs["wrong"], scheduler.board.jobs["right"]
    assert run(scheduler, {"wrong": 20, "right": 12}) == ["right", "wrong"]
    assert (wrong.num_preempted, right.num_preempted) == (1, 0)


def test_kv_from_elsewhere_is_taken_only_with_room_to_its_end() -> None:
    scheduler = instance("econoserve")
    offer(scheduler, ("long", 4, 36, 36))
    first_step(scheduler)
    moved = Job("moved", 8, 30, 30, SLO, 0.0, tokens_out=1, cached=8)
    assert not scheduler.board.expect(moved)
    brief = Job("brief", 8, 4, 4, SLO, 0.0, tokens_out=1, cached=8)
    assert scheduler.board.expect(brief)
    scheduler.check_invariants()


def lose_the_turn_half_done(scheduler: InstanceScheduler, prompt: int) -> None:
    """Prefills "half" in part until the turn's budget is spent, and "ends" to its end."""
    for job in (Job("ends", 4, 3, 3, SLO, 0.0), Job("half", prompt, 4, 4, SLO, 0.0)):
        scheduler.add(job)
    scheduler.grant(1, ["ends"], 1.0, 0.0)
    for at_s in (0.0, 0.5, 5.0, 5.5):
        if at_s == 0.5:
            scheduler.grant(1, ["half"], 1.0, at_s)
        plan = scheduler.plan(at_s)
        assert plan
        scheduler.advance(plan)


def test_a_half_done_prompt_is_first_when_it_is_granted_again() -> None:
    scheduler = instance("block-growth", num_blocks=6, max_prefill_tokens=8)
    lose_the_turn_half_done(scheduler, prompt=16)
    scheduler.add(Job("next", 20, 4, 4, SLO, 6.0))
    scheduler.grant(2, ["next", "half"], 1.0, 6.0)
    plan = scheduler.plan(6.0)
    assert plan
    assert [chunk.request_id for chunk in plan.chunks] == ["half"]


def test_who_starts_late_is_promised_room_anew() -> None:
    """In a fused turn prompts that are done wait for its end, while others decode on."""
    scheduler = instance("econoserve", num_blocks=100)
    offer(scheduler, ("runs", 4, 20, 20))
    for _ in range(2):
        plan = scheduler.plan(0.0)
        assert plan
        scheduler.advance(plan)
    fused = Batching(kind=BatchKind.FUSED, tokens=4)
    jobs = [Job("early", 4, 7, 7, SLO, 0.0), Job("slow", 40, 8, 8, SLO, 0.0)]
    for job in jobs:
        scheduler.add(job)
    scheduler.grant(2, ["early", "slow"], 1e9, 0.0, fused)
    for _ in range(9):
        plan = scheduler.plan(0.0)
        assert plan
        scheduler.advance(plan)
        scheduler.check_invariants()
    assert list(scheduler.board.held) == ["early"]
    assert scheduler.space_use().num_paused == 0
    assert sorted(run(scheduler, {"runs": 20, "early": 7, "slow": 8})) == ["early", "runs", "slow"]


@pytest.mark.parametrize("name", ["exact", "econoserve"])
def test_a_half_done_prompt_without_a_grant_gives_way_when_nothing_runs(name: str) -> None:
    scheduler = instance(name, max_prefill_tokens=8)
    lose_the_turn_half_done(scheduler, prompt=20)
    assert [(job.request_id, job.cached) for job in scheduler.board.jobs.values()] == [("half", 8)]
    assert scheduler.plan(6.0) is None
    scheduler.add(Job("next", 20, 12, 12, SLO, 6.0))
    scheduler.grant(2, ["next"], 1.0, 6.0)
    plan = scheduler.plan(6.0)
    assert plan
    assert [chunk.request_id for chunk in plan.chunks] == ["next"]
    assert scheduler.num_preempted == 1


# The size of a step


def test_the_target_is_where_tokens_beside_decodes_are_nearly_free() -> None:
    # 64 tokens cost no time; alone, n take 0.0036 s + n / 10,000 s, and 276 have 90 % of the rate
    # that 2,048 have.
    assert forward_tokens(Line(), 2048) == (64, 288)


def test_where_all_tokens_cost_the_same_it_is_where_more_hardly_help() -> None:
    assert forward_tokens(Same(), 2048) == (608, 608)


def test_without_a_latency_model_steps_are_as_large_as_they_may() -> None:
    scheduler = instance("econoserve", num_blocks=100)
    offer(scheduler, ("a", 60, 4, 4))
    plan = scheduler.plan(0.0)
    assert plan
    assert plan.prompt_tokens == 60


def test_a_step_is_larger_while_prompts_wait_for_nothing_but_their_turn() -> None:
    scheduler = InstanceScheduler(
        KvLedger(1000, 4),
        max_running=50,
        max_prefill_tokens=2048,
        step_cost=Line(),
        policy=make_instance_policy("econoserve"),
    )
    offer(scheduler, ("a", 300, 4, 4))
    scheduler.advance(plan := scheduler.plan(0.0) or pytest.fail("no step"))
    assert plan.prompt_tokens == 288  # it has not begun: it waits
    scheduler.advance(plan := scheduler.plan(0.0) or pytest.fail("no step"))
    assert plan.prompt_tokens == 12
    offer(scheduler, ("b", 900, 4, 4))
    for expected in (287, 63):  # beside one that decodes
        scheduler.advance(plan := scheduler.plan(0.0) or pytest.fail("no step"))
        assert plan.prompt_tokens == expected


def test_prompts_get_a_share_however_many_decode() -> None:
    assert [prompt_budget(128, decodes) for decodes in (0, 28, 500)] == [128, 100, 32]


def test_a_chunked_step_is_filled_to_the_target() -> None:
    econo = EconoSettings(forward_tokens=20)
    scheduler = instance("econoserve", num_blocks=100, econo=econo)
    offer(scheduler, ("a", 60, 4, 4))
    plan = scheduler.plan(0.0)
    assert plan
    assert plan.prompt_tokens == 20


def test_a_grant_that_names_its_tokens_has_its_way() -> None:
    scheduler = instance("econoserve", num_blocks=100, econo=EconoSettings(forward_tokens=20))
    assert scheduler.add(Job("a", 60, 4, 4, SLO, 0.0)) is None
    scheduler.grant(1, ["a"], 1e9, 0.0, Batching(kind=BatchKind.CHUNKED, tokens=33))
    plan = scheduler.plan(0.0)
    assert plan
    assert plan.prompt_tokens == 33
