"""Under joins, deaths, cancels and lost commands, each request runs once or ends typed."""

from __future__ import annotations

import random
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from rondo.policy import events
from rondo.policy.catalog import LIVE_POLICY_NAMES, PolicySettings, make_policy
from rondo.policy.macro import QueueSettings
from rondo.types import RequestInfo, Slo
from tests.support.virtual_cluster import VirtualCluster

NUM_REQUESTS = 40


def build(seed: int, name: str, loss: float, deaths: int) -> VirtualCluster:
    rng = random.Random(seed)
    settings = PolicySettings(queue=QueueSettings(max_wait_s=30.0), chunk_tokens=96)
    policy = make_policy(name, settings)
    cluster = VirtualCluster(policy, rng.randint(1, 4), max_prefill_tokens=512)

    def lose(effect: events.AnyEffect) -> bool:
        commands = events.GrantTurn | events.ExtendTurn | events.RevokeTurn
        return isinstance(effect, commands) and rng.random() < loss

    cluster.lose = lose
    for index in range(NUM_REQUESTS):
        answer = rng.randint(1, 60)
        info = RequestInfo(
            request_id=f"r{index}",
            prompt_tokens=rng.randint(1, 1500),
            max_tokens=answer,
            predicted_tokens=rng.randint(1, answer),
            slo=Slo(ttft_s=rng.choice([0.05, 1.0, 5.0]), tpot_s=rng.choice([0.001, 0.03, 0.1])),
            arrival_s=rng.random() * 6,
        )
        cluster.submit(info)
    for index in range(deaths):
        cluster.at(1.0 + index, lambda: cluster.leave(min(cluster.instances)))
        cluster.at(1.5 + index, partial(cluster.join, f"new{index}"))
    cluster.at(1.0, lambda: cluster.heartbeat(1.0, 120.0))
    return cluster


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    name=st.sampled_from(LIVE_POLICY_NAMES),
    loss=st.sampled_from([0.0, 0.2]),
    deaths=st.integers(0, 3),
)
def test_every_request_ends_once(seed: int, name: str, loss: float, deaths: int) -> None:
    cluster = build(seed, name, loss, deaths)
    cluster.run()
    for outcome in cluster.outcomes.values():
        assert outcome.indices == list(range(len(outcome.indices)))
        if outcome.rejected:
            assert not outcome.admitted
        elif not outcome.finished:
            assert deaths, "lost though no instance died"
            assert outcome.admitted[-1].instance_id not in cluster.instances
        else:
            assert len(outcome.indices) == outcome.info.max_tokens
            assert len(outcome.admitted) == 1
    for scheduler in cluster.instances.values():
        assert scheduler.ledger.num_free == scheduler.ledger.num_blocks
    assert cluster.policy.num_pending == 0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(LIVE_POLICY_NAMES))
def test_turn_numbers_only_grow(seed: int, name: str) -> None:
    cluster = build(seed, name, 0.0, 1)
    granted: dict[str, int] = {}

    def watch(effect: events.AnyEffect) -> bool:
        if isinstance(effect, events.GrantTurn):
            assert effect.turn > granted.get(effect.instance_id, 0)
            granted[effect.instance_id] = effect.turn
        if isinstance(effect, events.ExtendTurn):
            assert effect.turn == granted[effect.instance_id]
        return False

    cluster.lose = watch
    cluster.run()
    assert granted
