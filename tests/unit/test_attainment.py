"""The rule by which answers are held against their objectives."""

from __future__ import annotations

import pytest

from rondo.types import Slo
from rondo_gateway.attainment import Met, judge

LIMITS = Slo(ttft_s=1.0, tpot_s=0.05)


@pytest.mark.parametrize(
    ("ttft_s", "tpot_s", "met", "both"),
    [
        (1.0, 0.05, Met(ttft=True, tpot=True), True),
        (1.01, 0.05, Met(ttft=False, tpot=True), False),
        (0.5, 0.051, Met(ttft=True, tpot=False), False),
        (0.5, None, Met(ttft=True, tpot=True), True),
        (None, None, Met(ttft=False, tpot=True), False),
    ],
)
@pytest.mark.parametrize("outcome", ["stop", "length"])
def test_a_complete_answer_is_judged_by_its_times(
    outcome: str, ttft_s: float | None, tpot_s: float | None, met: Met, both: bool
) -> None:
    found = judge(outcome, ttft_s, tpot_s, LIMITS)
    assert found == met
    assert found.both is both


@pytest.mark.parametrize("outcome", ["CapacityError", "EngineError", "InstanceLost", "error"])
def test_half_an_answer_in_time_is_none_in_time(outcome: str) -> None:
    assert judge(outcome, 0.1, 0.01, LIMITS) == Met(ttft=False, tpot=False)


@pytest.mark.parametrize("outcome", ["cancelled", "ApiError"])
def test_what_the_client_ended_or_got_wrong_is_not_judged(outcome: str) -> None:
    assert judge(outcome, 0.1, 0.01, LIMITS) is None
