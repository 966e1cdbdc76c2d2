"""Mitosis as the paper draws it, its triggers, and the choice of a macro-instance."""

from __future__ import annotations

import random

import pytest

from rondo.errors import ConfigError
from rondo.policy.mitosis import Drain, Join, Mitosis, MitosisSettings
from rondo.policy.overall import MacroSummary, OverallScheduler
from rondo.policy.scaling import ScalingTrigger, TriggerSettings, Verdict, Window
from rondo.types import RequestInfo, Slo


def sizes(mitosis: Mitosis) -> list[int]:
    return [len(members) for members in mitosis.macros.values()]


def grown(settings: MitosisSettings, count: int) -> Mitosis:
    mitosis = Mitosis(settings)
    for index in range(count):
        mitosis.add(f"i{index}")
        mitosis.check_invariants()
    return mitosis


def test_expansion_and_contraction_as_drawn_with_3_and_6() -> None:
    mitosis = Mitosis(MitosisSettings(n_lower=3, n_upper=6))
    seen = []
    for index in range(13):
        mitosis.add(f"i{index}")
        seen.append(sizes(mitosis))
    # Fill to 6, split 3 off at the 7th, fill the old one up again, then the new one, split again.
    assert seen == [
        *([n] for n in range(1, 7)),
        [4, 3],
        [5, 3],
        [6, 3],
        [6, 4],
        [6, 5],
        [6, 6],
        [6, 4, 3],
    ]
    seen = []
    for _ in range(12):
        mitosis.contract()
        mitosis.check_invariants()
        seen.append(sizes(mitosis))
    # The smallest first, down to 3; then a full one; two that have 6 together merge.
    assert seen == [
        [5, 4, 3],
        [4, 4, 3],
        [6, 4],
        [6, 3],
        [5, 3],
        [4, 3],
        [6],
        *([n] for n in range(5, 0, -1)),
    ]


def test_the_papers_experiment_splits_at_the_12th_instance() -> None:
    mitosis = grown(MitosisSettings(n_lower=6, n_upper=11), 11)
    assert sizes(mitosis) == [11]
    mitosis.add("i11")
    assert sizes(mitosis) == [6, 6]
    for index in range(12, 16):
        mitosis.add(f"i{index}")
    assert sizes(mitosis) == [10, 6]


def test_a_draining_instance_is_called_back_before_a_new_one() -> None:
    mitosis = grown(MitosisSettings(n_lower=2, n_upper=4), 3)
    assert mitosis.call_back() == []
    assert mitosis.contract() == [Drain(instance_id="i2", macro_id="m0")]
    assert mitosis.draining == ("i2",)
    assert mitosis.call_back() == [Join(instance_id="i2", macro_id="m0")]
    assert not mitosis.draining
    mitosis.contract()
    assert mitosis.finished("i2")
    assert not mitosis.finished("i2")


def test_the_last_instance_stays() -> None:
    mitosis = grown(MitosisSettings(n_lower=2, n_upper=4), 1)
    assert mitosis.contract() == []


def test_a_death_that_leaves_too_few_is_made_good() -> None:
    mitosis = grown(MitosisSettings(n_lower=3, n_upper=6), 12)
    assert sizes(mitosis) == [6, 6]
    for instance_id in mitosis.macros["m1"][:4]:
        mitosis.lost(instance_id)
        mitosis.check_invariants()
    assert sizes(mitosis) == [5, 3]


@pytest.mark.parametrize(("lower", "upper"), [(0, 5), (6, 10), (3, 4)])
def test_bounds_that_cannot_split_are_refused(lower: int, upper: int) -> None:
    with pytest.raises(ConfigError, match=r"n_lower|n_upper"):
        MitosisSettings(n_lower=lower, n_upper=upper)


def window(
    at_s: float,
    num: int,
    ttft_s: float | None,
    saved_s: float | None,
    served: int = 100,
    refused: int = 0,
) -> Window:
    return Window(
        at_s=at_s,
        duration_s=30.0,
        num_instances=num,
        mean_ttft_s=ttft_s,
        mean_saved_tpot_s=saved_s,
        ttft_limit_s=5.0,
        num_served=served,
        num_refused=refused,
    )


def test_the_papers_triggers() -> None:
    assert ScalingTrigger().observe(window(0, 8, 5.1, 1.0)).verdict is Verdict.EXPAND
    assert ScalingTrigger().observe(window(0, 8, 4.9, 1.0)).verdict is Verdict.HOLD
    eager = TriggerSettings(contract_windows=1)
    enough_s = 5.0 * 9 / 8
    for saved_s, verdict in ((enough_s - 0.1, Verdict.HOLD), (enough_s + 0.1, Verdict.CONTRACT)):
        assert ScalingTrigger(eager).observe(window(0, 8, 1.0, saved_s)).verdict is verdict


def test_refusals_expand_and_bounds_hold() -> None:
    trigger = ScalingTrigger(TriggerSettings(max_instances=8, min_instances=8))
    decision = trigger.observe(window(0, 8, 1.0, 1.0, refused=5))
    assert decision.verdict is Verdict.HOLD
    assert "most allowed" in decision.reason
    assert trigger.observe(window(30, 8, 0.1, 99.0)).reason == "at the least allowed"
    assert ScalingTrigger().observe(window(0, 8, 1.0, 1.0, refused=5)).verdict is Verdict.EXPAND


def test_a_decision_takes_effect_before_the_next() -> None:
    trigger = ScalingTrigger(TriggerSettings(cooldown_s=60.0))
    verdicts = [trigger.observe(window(30.0 * i, 8, 9.0, 0.0)).verdict for i in range(4)]
    assert verdicts == [Verdict.EXPAND, Verdict.HOLD, Verdict.EXPAND, Verdict.HOLD]


def simulated(trigger: ScalingTrigger, loads: list[float], seed: int, start: int) -> list[int]:
    """Sizes over windows: an instance serves one unit of load; TTFT and slack follow from it."""
    rng, num, history = random.Random(seed), start, []
    for index, load in enumerate(loads):
        noisy = load * rng.uniform(0.95, 1.05)
        busy = noisy / num
        ttft_s = 0.3 / max(0.02, 1 - busy) * rng.uniform(0.8, 1.25)
        saved_s = 12.0 * max(0.0, 1 - busy) * rng.uniform(0.9, 1.1)
        served = int(100 * noisy)
        decision = trigger.observe(window(30.0 * index, num, ttft_s, saved_s, served))
        num += {Verdict.EXPAND: 1, Verdict.CONTRACT: -1, Verdict.HOLD: 0}[decision.verdict]
        history.append(num)
    return history


@pytest.mark.parametrize("load", [0.5, 2.0, 5.3, 7.7, 11.9])
@pytest.mark.parametrize("start", [1, 8, 16])
@pytest.mark.parametrize("seed", [1, 2])
def test_constant_load_never_flaps(load: float, start: int, seed: int) -> None:
    history = simulated(ScalingTrigger(), [load] * 3000, seed, start)
    changes = [b - a for a, b in zip(history, history[1:], strict=False) if a != b]
    assert len(set(changes)) <= 1, "it went both ways"
    assert history[-1] >= load
    assert len(set(history[-1000:])) == 1, "it never settled"


def test_a_rising_and_falling_load_is_followed() -> None:
    loads = [4.0] * 50 + [12.0] * 100 + [4.0] * 200
    history = simulated(ScalingTrigger(), loads, 1, 6)
    assert max(history[50:150]) >= 12
    assert history[-1] < 12
    assert history[-1] >= 4


def request(prompt: int = 100) -> RequestInfo:
    slo = Slo(ttft_s=1.0, tpot_s=0.1)
    return RequestInfo(
        request_id="r",
        prompt_tokens=prompt,
        max_tokens=100,
        predicted_tokens=50,
        slo=slo,
        arrival_s=0.0,
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
    assert {m: chosen.count(m) for m in sorted(set(chosen), key=str)} == {
        "m0": 4,
        "m1": 2,
        "m2": 2,
        "m3": 2,
    }
    overall.update("m1", summary(num=2))
    overall.remove("m0")
    assert overall.choose("a", request()) == "m1"
