"""The paper's policy and the routed baselines, on virtual time."""

from __future__ import annotations

import pytest

from rondo.errors import ConfigError
from rondo.policy import events
from rondo.policy.catalog import PolicySettings, make_policy
from rondo.policy.padg_paper import PaperSettings
from rondo.types import BatchKind, RequestInfo, Slo
from tests.support.virtual_cluster import VirtualCluster


def request(
    request_id: str, arrival_s: float, prompt: int = 1000, answer: int = 20, tpot_s: float = 0.1
) -> RequestInfo:
    return RequestInfo(
        request_id=request_id,
        prompt_tokens=prompt,
        max_tokens=answer,
        predicted_tokens=answer,
        slo=Slo(ttft_s=1.0, tpot_s=tpot_s),
        arrival_s=arrival_s,
    )


def places(cluster: VirtualCluster) -> list[str]:
    return [o.admitted[0].instance_id for o in cluster.outcomes.values() if o.admitted]


def paper(settings: PaperSettings | None = None, instances: int = 2) -> VirtualCluster:
    policy = make_policy("padg-paper", PolicySettings(paper=settings or PaperSettings()))
    return VirtualCluster(policy, instances, max_prefill_tokens=1000)


def test_a_turn_is_filled_up_to_the_ttft_limit_and_the_next_goes_on() -> None:
    # 1,000 tokens take 105 ms: nine of them fill a TTFT limit of 1 s, the tenth goes on.
    cluster = paper()
    for index in range(12):
        cluster.submit(request(f"r{index}", 0.0))
    cluster.run()
    assert places(cluster) == ["i0"] * 9 + ["i1"] * 3
    assert all(outcome.ttft_s <= 1.0 for outcome in cluster.outcomes.values())


def test_the_mean_hides_the_request_without_slack_and_a_quantile_does_not() -> None:
    def taken_by(settings: PaperSettings) -> str:
        cluster = paper(settings)
        for index in range(10):  # decoding for a second: much saved TPOT
            cluster.submit(request(f"old{index}", 0.0, prompt=10, answer=200))
        cluster.submit(request("young", 1.6, prompt=10, answer=200))  # and one that has none
        cluster.submit(request("new", 1.65, prompt=900))
        cluster.run()
        return cluster.outcomes["new"].admitted[0].instance_id

    assert taken_by(PaperSettings()) == "i0"
    assert taken_by(PaperSettings(slack_quantile=0.0)) == "i1"


def test_separate_turns_stop_decodes_and_fused_ones_do_not() -> None:
    def phases(settings: PaperSettings) -> str:
        cluster = paper(settings, instances=1)
        cluster.journal = []
        cluster.submit(request("stream", 0.0, prompt=10, answer=100))
        cluster.submit(request("late", 1.5, prompt=900))
        cluster.run()
        return "".join(line for line in cluster.journal if "StepStat" in line)

    assert "FUSED" not in phases(PaperSettings())
    assert "FUSED" in phases(PaperSettings(fused_tokens=256))


def test_fixed_intervals_route_by_the_clock() -> None:
    cluster = paper(PaperSettings(interval_share=0.5))
    for index in range(8):
        cluster.submit(request(f"r{index}", 0.25 * index + 0.01, prompt=50))
    cluster.run()
    assert places(cluster) == ["i0", "i0", "i1", "i1", "i0", "i0", "i1", "i1"]


def test_random_order_is_the_same_every_time_and_uses_everybody() -> None:
    def run() -> list[str]:
        cluster = paper(PaperSettings(order="random"), instances=4)
        for index in range(40):
            cluster.submit(request(f"r{index}", 0.5 * index, prompt=50))
        cluster.run()
        return places(cluster)

    assert run() == run()
    assert set(run()) == {"i0", "i1", "i2", "i3"}


def test_round_robin_takes_turns_and_shortest_queue_looks() -> None:
    def routed(name: str) -> list[str]:
        cluster = VirtualCluster(make_policy(name), 3)
        cluster.submit(request("long", 0.0, answer=400))
        for index in range(5):
            cluster.submit(request(f"r{index}", 5.0 + 0.55 * index))
        cluster.run()
        return places(cluster)

    assert routed("nodg-rr") == ["i0", "i1", "i2", "i0", "i1", "i2"]
    assert routed("nodg-jsq") == ["i0", "i1", "i1", "i1", "i1", "i1"]


def test_the_chunked_baseline_keeps_to_its_token_budget() -> None:
    cluster = VirtualCluster(make_policy("chunked-jsq", PolicySettings(chunk_tokens=64)), 1)
    seen: list[events.AnyEffect] = []

    def watch(effect: events.AnyEffect) -> bool:
        seen.append(effect)
        return False

    cluster.lose = watch
    for index in range(6):
        cluster.submit(request(f"r{index}", 0.05 * index, prompt=300))
    cluster.run()
    [grant] = [effect for effect in seen if isinstance(effect, events.GrantTurn)]
    assert (grant.batching.kind, grant.batching.tokens) == (BatchKind.CHUNKED, 64)
    assert all(outcome.finished for outcome in cluster.outcomes.values())
    # 64 rows take 15 ms of line and floor; a whole prompt would have taken 35 ms.
    assert all(outcome.tpot_s < 0.03 for outcome in cluster.outcomes.values())


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'best' is not one of: padg, padg-paper"):
        make_policy("best")
