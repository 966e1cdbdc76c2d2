"""The macro-instance policy on virtual time: its checks, its rhythm, its ends."""

from __future__ import annotations

import random
from functools import partial

import pytest

from rondo.errors import ConfigError
from rondo.policy import events
from rondo.policy.macro import QueueSettings
from rondo.policy.padg import PadgScheduler, PadgSettings
from rondo.types import RequestInfo, Slo
from tests.support.virtual_cluster import PROFILE, VirtualCluster


def request(
    request_id: str,
    arrival_s: float,
    prompt: int = 100,
    answer: int = 20,
    ttft_s: float = 1.0,
    tpot_s: float = 0.1,
) -> RequestInfo:
    return RequestInfo(
        request_id=request_id,
        prompt_tokens=prompt,
        max_tokens=answer,
        predicted_tokens=answer,
        slo=Slo(ttft_s=ttft_s, tpot_s=tpot_s),
        arrival_s=arrival_s,
    )


def workload(count: int, rate: float, seed: int) -> list[RequestInfo]:
    rng = random.Random(seed)
    at_s, requests = 0.0, []
    for index in range(count):
        at_s += rng.expovariate(rate)
        prompt, answer = rng.randint(1, 900), rng.randint(1, 120)
        requests.append(request(f"r{index}", at_s, prompt, answer, ttft_s=2.0))
    return requests


def test_an_idle_instance_takes_a_request_at_once_and_predicts_its_ttft() -> None:
    cluster = VirtualCluster(PadgScheduler(), 2)
    cluster.submit(request("r", 1.0, prompt=500, answer=3))
    cluster.run()
    outcome = cluster.outcomes["r"]
    [admit] = outcome.admitted
    assert outcome.indices == [0, 1, 2]
    assert outcome.ttft_s == pytest.approx(admit.predicted_ttft_s)
    assert outcome.ttft_s == pytest.approx(0.055)


def test_requests_that_come_together_spread_and_what_is_too_much_waits() -> None:
    # 1,000 tokens take 105 ms: an instance takes prompts until 0.5 s of them are before it.
    policy = PadgScheduler()
    cluster = VirtualCluster(policy, 2, max_prefill_tokens=1000)
    for index in range(14):
        cluster.submit(request(f"r{index}", 0.0, prompt=1000))
    cluster.run(until_s=0.0)
    places = [o.admitted[0].instance_id for o in cluster.outcomes.values() if o.admitted]
    assert places == ["i0", "i1"] * 5
    assert policy.num_pending == 4
    cluster.run()
    assert all(outcome.ttft_s <= 1.0 for outcome in cluster.outcomes.values())


def test_no_step_takes_longer_than_the_tightest_tpot_limit() -> None:
    # 50 ms a token leave room for 450 prompt tokens beside a few decodes; whole prompts need more.
    policy = PadgScheduler()
    cluster = VirtualCluster(policy, 1, max_prefill_tokens=2000)
    cluster.submit(request("stream", 0.0, prompt=10, answer=120, tpot_s=0.05))
    for index in range(5):
        cluster.submit(request(f"long{index}", 0.5 + index, prompt=1900, ttft_s=5.0))
    cluster.run()
    assert all(outcome.finished for outcome in cluster.outcomes.values())
    assert cluster.outcomes["stream"].tpot_s <= 0.05


def test_a_prompt_of_32k_tokens_leaves_the_streams_their_tpot() -> None:
    cluster = VirtualCluster(PadgScheduler(), 2, num_blocks=8192, max_prefill_tokens=4096)
    for index in range(20):
        cluster.submit(request(f"r{index}", index * 0.05, answer=200, ttft_s=1.0, tpot_s=0.05))
    cluster.submit(request("long", 1.0, prompt=32_000, answer=10, ttft_s=1.0, tpot_s=0.05))
    cluster.run()
    long = cluster.outcomes.pop("long")
    assert long.finished  # late, for even an idle instance would have missed its limit
    for outcome in cluster.outcomes.values():
        assert outcome.ttft_s <= 1.0
        assert outcome.tpot_s <= 0.05


def test_overload_is_refused_early_and_what_is_admitted_keeps_its_limits() -> None:
    cluster = VirtualCluster(PadgScheduler(), 2)
    for info in workload(1500, rate=60.0, seed=5):
        cluster.submit(info)
    cluster.run()
    outcomes = cluster.outcomes.values()
    admitted = [o for o in outcomes if o.admitted]
    kept = [o for o in admitted if o.ttft_s <= 2.0 and o.tpot_s <= o.info.slo.tpot_s]
    rejected = [o for o in outcomes if o.rejected]
    assert len(admitted) + len(rejected) == 1500
    assert len(rejected) > 100
    assert len(kept) >= 0.95 * len(admitted)
    for outcome in rejected:
        assert outcome.rejected is not None
        assert outcome.rejected.reason == "overloaded"
        assert outcome.rejected.retry_after_s is not None
        assert outcome.rejected.retry_after_s >= 1.0
        assert outcome.ended_s - outcome.info.arrival_s <= 2.0
    at_once = [o for o in rejected if o.ended_s == o.info.arrival_s]
    assert len(at_once) > 0.5 * len(rejected)


def test_the_limits_of_each_request_are_its_own() -> None:
    # Interactive requests are served within a second though batch ones were there first.
    cluster = VirtualCluster(PadgScheduler(), 1)
    for index in range(60):
        cluster.submit(request(f"batch{index}", 0.0, prompt=900, ttft_s=30.0, tpot_s=1.0))
    for index in range(10):
        cluster.submit(request(f"chat{index}", 1.0 + 0.2 * index, ttft_s=1.0, tpot_s=0.05))
    cluster.run()
    for outcome in cluster.outcomes.values():
        assert outcome.finished
        assert outcome.ttft_s <= outcome.info.slo.ttft_s
        assert outcome.tpot_s <= outcome.info.slo.tpot_s


def test_a_request_no_instance_can_hold_is_refused_for_good() -> None:
    cluster = VirtualCluster(PadgScheduler(), 2)
    cluster.submit(request("r", 0.0, prompt=PROFILE.num_blocks * PROFILE.block_size))
    cluster.run()
    rejected = cluster.outcomes["r"].rejected
    assert rejected is not None
    assert (rejected.reason, rejected.retry_after_s) == ("too_long", None)


def test_the_queue_is_bounded_in_length_and_time() -> None:
    policy = PadgScheduler(queue=QueueSettings(max_wait_s=5.0, max_pending=3))
    cluster = VirtualCluster(policy, 0)
    for index in range(4):
        cluster.submit(request(f"r{index}", 0.0))
    cluster.run()
    reasons = [cluster.outcomes[f"r{i}"].rejected for i in range(4)]
    assert [r.reason if r else None for r in reasons] == ["no_instances"] * 3 + ["queue_full"]
    assert policy.num_pending == 0


def test_pending_requests_are_admitted_when_an_instance_joins() -> None:
    cluster = VirtualCluster(PadgScheduler(), 0)
    cluster.submit(request("r", 0.0))
    cluster.at(3.0, lambda: cluster.join("late"))
    cluster.run()
    assert cluster.outcomes["r"].finished


def test_asking_twice_gets_the_same_answer_and_runs_once() -> None:
    cluster = VirtualCluster(PadgScheduler(), 2)
    info = request("r", 0.0)
    cluster.submit(info)
    cluster.at(0.005, lambda: cluster._arrive(info))
    cluster.run()
    outcome = cluster.outcomes["r"]
    first, second = outcome.admitted
    assert first == second
    assert outcome.indices == list(range(20))


def test_a_cancelled_request_frees_its_place_wherever_it_is() -> None:
    policy = PadgScheduler(queue=QueueSettings(max_wait_s=1e3))
    cluster = VirtualCluster(policy, 1)
    for index in range(30):
        cluster.submit(request(f"r{index}", 0.0, prompt=900, answer=500))
    for index in range(30):
        cluster.at(0.1 + 0.05 * index, partial(cluster.cancel, f"r{index}"))
    cluster.run()
    scheduler = cluster.instances["i0"]
    assert scheduler.ledger.num_free == scheduler.ledger.num_blocks
    assert policy.views["i0"].num_requests == policy.num_pending == 0


def test_a_lost_token_is_sent_again_after_a_full_report() -> None:
    cluster = VirtualCluster(PadgScheduler(), 1)
    lost: list[object] = []

    def lose_first_grant(effect: events.AnyEffect) -> bool:
        if isinstance(effect, events.GrantTurn) and not lost:
            lost.append(effect)
            return True
        return False

    cluster.lose = lose_first_grant
    cluster.submit(request("r", 0.0))
    cluster.at(1.0, lambda: cluster.heartbeat(1.0, 5.0))
    cluster.run()
    assert lost
    assert cluster.outcomes["r"].finished


def test_a_new_owner_rebuilds_from_full_reports_and_nothing_is_lost() -> None:
    cluster = VirtualCluster(PadgScheduler(), 3)
    for info in workload(120, rate=20.0, seed=3):
        cluster.submit(info)

    def take_over() -> None:
        pending = list(cluster.policy.pending)  # type: ignore[attr-defined]
        cluster.policy = PadgScheduler()
        for instance_id in cluster.instances:
            cluster.announce(instance_id)
        for info in pending:  # gateways submit again
            cluster._arrive(info)

    cluster.at(2.5, take_over)
    cluster.at(2.6, lambda: cluster.heartbeat(1.0, 30.0))
    cluster.run()
    for outcome in cluster.outcomes.values():
        assert outcome.finished
        assert outcome.indices == list(range(outcome.info.max_tokens))


def test_a_tpot_nobody_can_meet_does_not_stop_admission() -> None:
    cluster = VirtualCluster(PadgScheduler(), 1)
    for index in range(20):
        cluster.submit(request(f"r{index}", index * 0.1, answer=200, ttft_s=5.0, tpot_s=0.001))
    cluster.run()
    assert all(outcome.finished for outcome in cluster.outcomes.values())


def test_decisions_carry_their_reasons() -> None:
    policy = PadgScheduler()
    cluster = VirtualCluster(policy, 1, max_prefill_tokens=1000)
    cluster.journal = []
    for index in range(12):
        cluster.submit(request(f"r{index}", 0.0, prompt=1000))
    cluster.run(until_s=0.0)
    [admit] = cluster.outcomes["r0"].admitted
    assert admit.reasons == ("i0: turn of 0.105 s fits",)
    assert "r11 stays pending: i0: busy: 0.530 s of prompts before it" in cluster.journal[-1]


def test_the_same_events_give_the_same_journal() -> None:
    def journal() -> list[str]:
        cluster = VirtualCluster(PadgScheduler(), 4)
        cluster.journal = []
        for info in workload(150, rate=25.0, seed=11):
            cluster.submit(info)
        cluster.run()
        return cluster.journal

    assert journal() == journal()


@pytest.mark.parametrize(("setting", "value"), [("tpot_share", 0.0), ("horizon_s", -1.0)])
def test_a_knob_outside_its_range_is_refused(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=setting):
        PadgSettings(**{setting: value})  # type: ignore[arg-type]


def test_a_long_prompt_behind_a_short_one_does_not_hold_its_answer_up() -> None:
    # Nothing decodes yet: both prompts come before the first step.
    cluster = VirtualCluster(PadgScheduler(), 1, num_blocks=4096, max_prefill_tokens=4096)
    cluster.submit(request("short", 0.0, prompt=50, answer=50, ttft_s=1.0))
    cluster.submit(request("long", 0.0, prompt=30_000, answer=5, ttft_s=30.0))
    cluster.run()
    assert cluster.outcomes["short"].ttft_s < 0.2
    assert cluster.outcomes["short"].tpot_s <= 0.1
    assert cluster.outcomes["long"].ttft_s <= 30.0


def test_a_request_that_comes_late_by_no_fault_of_load_is_served() -> None:
    # No coordinator was there for ten seconds; the gateway says how old the request is.
    cluster = VirtualCluster(PadgScheduler(), 1)
    cluster.submit(request("old", 0.0, ttft_s=5.0), late_s=10.0)
    cluster.submit(request("young", 10.0, ttft_s=5.0))
    cluster.run()
    assert len(cluster.outcomes["young"].indices) == len(cluster.outcomes["old"].indices) == 20
