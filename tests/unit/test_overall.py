"""The overall scheduler: which macro-instance gets a request."""

from __future__ import annotations

from collections import Counter

import pytest

from rondo.errors import ConfigError
from rondo.policy.overall import MacroSummary, OverallScheduler
from rondo.types import RequestInfo, Slo


def request(prompt: int = 100, arrival_s: float = 0.0) -> RequestInfo:
    slo = Slo(ttft_s=1.0, tpot_s=0.1)
    return RequestInfo(
        request_id="r",
        prompt_tokens=prompt,
        max_tokens=100,
        predicted_tokens=50,
        slo=slo,
        arrival_s=arrival_s,
    )


def summary(
    model: str = "a", num: int = 4, pending: int = 0, running: int = 0, free: int = 100
) -> MacroSummary:
    return MacroSummary(
        model=model,
        num_instances=num,
        num_pending=pending,
        num_running=running,
        max_model_len=4096,
        free_blocks=free,
        block_size=16,
    )


def test_the_least_loaded_macro_instance_of_the_model_is_chosen() -> None:
    overall = OverallScheduler()
    overall.update("m0", summary(model="b"))
    overall.update("m1", summary(pending=4))
    overall.update("m2", summary(running=8))
    overall.update("m3", summary(running=4, free=2))
    assert overall.choose("a", request()) == "m2"  # m3 has less to do, but no room
    assert overall.choose("a", request(prompt=20)) == "m3"
    assert overall.choose("a", request(prompt=5000)) is None
    assert overall.choose("c", request()) is None


def test_a_burst_spreads_although_summaries_are_old() -> None:
    overall = OverallScheduler()
    for index in range(4):
        overall.update(f"m{index}", summary(num=2 if index else 4))
    chosen = [overall.choose("a", request()) for _ in range(10)]
    assert Counter(chosen) == {"m0": 4, "m1": 2, "m2": 2, "m3": 2}
    overall.update("m1", summary(num=2))
    overall.remove("m0")
    assert overall.choose("a", request()) == "m1"


def test_a_burst_between_two_reports_ends_level() -> None:
    overall = OverallScheduler()
    waiting = {f"m{n}": n % 7 for n in range(100)}
    for macro_id, pending in waiting.items():
        overall.update(macro_id, summary(num=10, pending=pending))
    for _ in range(1000):
        chosen = overall.choose("a", request())
        assert chosen
        waiting[chosen] += 1
    assert max(waiting.values()) - min(waiting.values()) <= 1


def test_a_full_one_still_gets_requests_when_all_are_full() -> None:
    overall = OverallScheduler()
    overall.update("m0", summary(pending=9, free=0))
    overall.update("m1", summary(pending=1, free=0))
    assert overall.choose("a", request()) == "m1"


def test_one_without_instances_gets_nothing() -> None:
    overall = OverallScheduler()
    overall.update("m0", summary(num=0))
    assert overall.choose("a", request()) is None


def test_an_old_report_is_not_believed() -> None:
    overall = OverallScheduler(stale_after_s=5.0)
    overall.update("m0", summary(pending=0), at_s=0.0)
    overall.update("m1", summary(pending=50), at_s=8.0)
    assert overall.choose("a", request(arrival_s=4.0)) == "m0"
    assert overall.choose("a", request(arrival_s=10.0)) == "m1"
    assert overall.choose("a", request(arrival_s=0.0), at_s=10.0) == "m1"
    overall.remove("m1")
    assert overall.choose("a", request(arrival_s=10.0)) == "m0"


def test_a_macro_instance_may_change_its_model() -> None:
    overall = OverallScheduler()
    overall.update("m0", summary(model="a"))
    overall.update("m0", summary(model="b"))
    assert overall.choose("a", request()) is None
    assert overall.choose("b", request()) == "m0"


def test_removing_an_unknown_one_changes_nothing() -> None:
    OverallScheduler().remove("m0")


def test_a_limit_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="stale_after_s"):
        OverallScheduler(stale_after_s=0.0)
