"""Classes of predicted length: how they are cut, and instances that specialise by them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

import pytest

from rondo.errors import ConfigError
from rondo.policy.catalog import PolicySettings, make_policy
from rondo.policy.length_classes import LEAST_SEEN, RECENT, LengthClasses, added_work_s
from rondo.policy.padg import PadgScheduler, PadgSettings
from rondo.policy.padg_lengths import LengthPadgScheduler
from rondo.types import RequestInfo, Slo
from tests.support.virtual_cluster import PROFILE, VirtualCluster


def learned(num: int, *lengths_and_work: tuple[int, float]) -> LengthClasses:
    """Classes that saw these over and over, in turns."""
    classes = LengthClasses(num)
    for _ in range(-(-RECENT // len(lengths_and_work))):
        for length, work_s in lengths_and_work:
            classes.see(length, work_s)
    return classes


def test_classes_have_equal_work_and_contiguous_shares_of_the_instances() -> None:
    classes = learned(2, (10, 1.0), (20, 1.0), (30, 1.0), (200, 3.0))
    assert classes.share(10, 8) == classes.share(30, 8) == range(4)
    assert classes.share(200, 8) == classes.share(5000, 8) == range(4, 8)


def test_a_length_that_fills_several_classes_prefers_them_all() -> None:
    classes = learned(4, (10, 3.0), (10, 2.0), (100, 2.0), (1000, 1.0))
    assert classes.share(10, 8) == range(6)
    assert classes.share(100, 8) == range(4, 8)
    assert classes.share(1000, 8) == range(6, 8)


@pytest.mark.parametrize("num", [2, 3, 4, 5])
@pytest.mark.parametrize("num_instances", range(1, 13))
def test_every_instance_is_of_a_class_and_every_class_has_one(num: int, num_instances: int) -> None:
    lengths = random.Random(num).choices(range(10, 1000), k=RECENT)
    classes = learned(num, *((length, 1.0) for length in lengths))
    lengths.sort()
    middles = [lengths[(2 * i + 1) * RECENT // (2 * num)] for i in range(num)]
    shares = [classes.share(length, num_instances) for length in middles]
    assert all(shares)
    assert sorted({place for share in shares for place in share}) == list(range(num_instances))
    assert [share.start for share in shares] == sorted(share.start for share in shares)


def test_predictions_that_are_alike_or_only_drift_make_no_classes() -> None:
    assert learned(4, (200, 1.0), (220, 1.0), (240, 1.0)).share(200, 8) == range(8)
    assert learned(1, (20, 1.0), (2000, 1.0)).share(20, 8) == range(8)
    drifting = LengthClasses(4)
    for tokens in range(1, 600):
        drifting.see(tokens, 1.0)
        assert drifting.share(tokens, 8) == range(8)


def test_classes_begin_late_and_follow_the_load() -> None:
    classes = LengthClasses(2)
    for seen in range(LEAST_SEEN):
        assert classes.share(10, 2) == range(2)
        classes.see((10, 1000)[seen % 2], 1.0)
    assert classes.share(10, 2) == range(1)
    assert classes.share(1000, 2) == range(1, 2)
    for seen in range(RECENT + LEAST_SEEN):
        classes.see((1000, 9000)[seen % 2], 1.0)
    assert classes.share(1000, 2) == range(1)


def test_work_grows_with_prompt_and_answer() -> None:
    least = added_work_s(PROFILE, 100, 100)
    assert least > 0
    assert added_work_s(PROFILE, 1100, 100) == pytest.approx(least + 0.1)  # 0.1 ms a token
    assert added_work_s(PROFILE, 100, 1100) == pytest.approx(least + 0.1)


def request(index: int, at_s: float, answer: int, prompt: int = 100) -> RequestInfo:
    return RequestInfo(
        request_id=f"r{index}",
        prompt_tokens=prompt,
        max_tokens=answer,
        predicted_tokens=answer,
        slo=Slo(ttft_s=2.0, tpot_s=0.1),
        arrival_s=at_s,
    )


def workload(
    count: int, rate: float, answers: Sequence[int], prompt: int = 100
) -> list[RequestInfo]:
    rng = random.Random(7)
    at_s, requests = 0.0, []
    for index in range(count):
        at_s += rng.expovariate(rate)
        requests.append(request(index, at_s, answers[index % len(answers)], prompt))
    return requests


#: Half of the work ends in the 60s.
ANSWERS = (5, 60, 6, 120)


def classed(num: int = 2) -> LengthPadgScheduler:
    return LengthPadgScheduler(settings=PadgSettings(length_classes=num))


def test_requests_go_to_the_instances_of_their_class() -> None:
    cluster = VirtualCluster(classed(), 4)
    for info in workload(260, 10.0, ANSWERS):
        cluster.submit(info)
    cluster.run()
    places: dict[int, set[str]] = {answer: set() for answer in ANSWERS}
    for outcome in list(cluster.outcomes.values())[LEAST_SEEN:]:
        places[outcome.info.max_tokens].add(outcome.admitted[0].instance_id)
    assert places[5] == places[6] == {"i0", "i1"}
    assert places[120] == {"i2", "i3"}


def test_a_class_that_is_full_overflows_at_once() -> None:
    # As in test_padg: an instance takes five prompts of 1,000 tokens at once, whatever its class.
    cluster = VirtualCluster(classed(), 4, max_prefill_tokens=1000)
    for info in workload(140, 10.0, ANSWERS):
        cluster.submit(info)
    cluster.run()
    for index in range(24):
        cluster.submit(request(1000 + index, cluster.now_s, 5, prompt=1000))
    cluster.run(until_s=cluster.now_s)
    taken = [cluster.outcomes[f"r{1000 + i}"].admitted[0].instance_id for i in range(20)]
    assert sorted(taken[:10]) == ["i0"] * 5 + ["i1"] * 5
    assert sorted(taken[10:]) == ["i2"] * 5 + ["i3"] * 5


def test_predictions_without_information_change_nothing() -> None:
    def journal(policy: PadgScheduler) -> list[str]:
        cluster = VirtualCluster(policy, 4)
        cluster.journal = []
        for info in workload(200, 40.0, (60,)):
            cluster.submit(info)
        cluster.run()
        return cluster.journal

    assert journal(classed()) == journal(PadgScheduler())


def test_under_overload_what_is_admitted_keeps_its_limits() -> None:
    cluster = VirtualCluster(classed(), 2)
    for info in workload(600, 60.0, ANSWERS, prompt=700):
        cluster.submit(info)
    cluster.run()
    admitted = [o for o in cluster.outcomes.values() if o.admitted]
    rejected = [o for o in cluster.outcomes.values() if o.rejected]
    assert len(admitted) + len(rejected) == 600
    assert len(rejected) > 100
    kept = [o for o in admitted if o.ttft_s <= 2.0 and o.tpot_s <= 0.1]
    assert len(kept) >= 0.95 * len(admitted)


def test_instances_come_and_go_under_classes_and_every_request_ends_once() -> None:
    cluster = VirtualCluster(classed(4), 4)
    for info in workload(500, 40.0, ANSWERS):
        cluster.submit(info)
    for index in range(3):
        cluster.at(5.0 + 2 * index, partial(cluster.leave, f"i{index}"))
        cluster.at(6.0 + 2 * index, partial(cluster.join, f"new{index}"))
    cluster.at(11.5, partial(cluster.leave, "new0"))
    cluster.run()
    lost = [o for o in cluster.outcomes.values() if not o.finished]
    assert {o.admitted[-1].instance_id for o in lost} <= {"i0", "i1", "i2", "new0"}
    for outcome in cluster.outcomes.values():
        assert len(outcome.admitted) == 1
        assert outcome.indices == list(range(len(outcome.indices)))
    assert len({o.admitted[0].instance_id for o in cluster.outcomes.values()}) == 7


def test_the_setting_chooses_it_and_is_checked() -> None:
    assert type(make_policy("padg")) is PadgScheduler
    settings = PolicySettings(padg=PadgSettings(length_classes=3))
    assert type(make_policy("padg", settings)) is LengthPadgScheduler
    with pytest.raises(ConfigError, match="length_classes"):
        PadgSettings(length_classes=-1)
