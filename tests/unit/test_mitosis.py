"""Mitosis as the paper draws it, and its triggers."""

from __future__ import annotations

import random

import msgspec
import pytest

from rondo.errors import ConfigError
from rondo.policy.mitosis import Create, Drain, Join, Mitosis, MitosisSettings, Move, Remove
from rondo.policy.scaling import ScalingTrigger, TriggerSettings, Verdict, Window


def sizes(mitosis: Mitosis) -> list[int]:
    return [len(members) for members in mitosis.macros.values()]


def grown(settings: MitosisSettings, count: int) -> Mitosis:
    mitosis = Mitosis(settings)
    for index in range(count):
        mitosis.add(f"i{index}")
        mitosis.check_invariants()
    return mitosis


DRAWING_3_6 = [
    # Fill to 6; the 7th splits 3 off; fill the old one up again, then the new one; split again.
    *([n] for n in range(1, 7)),
    [4, 3],
    [5, 3],
    [6, 3],
    [6, 4],
    [6, 5],
    [6, 6],
    [6, 4, 3],
    [6, 5, 3],
    [6, 6, 3],
]
DRAWING_6_11 = [
    *([n] for n in range(1, 12)),
    *([n, 6] for n in range(6, 12)),
    *([11, n] for n in range(7, 12)),
    [11, 6, 6],
]


@pytest.mark.parametrize(
    ("lower", "upper", "drawing"), [(3, 6, DRAWING_3_6), (6, 11, DRAWING_6_11)]
)
def test_the_papers_drawings_up_and_down(lower: int, upper: int, drawing: list[list[int]]) -> None:
    mitosis, seen = Mitosis(MitosisSettings(n_lower=lower, n_upper=upper)), []
    for index in range(len(drawing)):
        mitosis.add(f"i{index}")
        mitosis.check_invariants()
        seen.append(sizes(mitosis))
    assert seen == drawing
    # Down: the smallest first until it has n_lower, then a full one; two of n_upper merge.
    seen = [sizes(mitosis)]
    while mitosis.contract():
        mitosis.check_invariants()
        seen.append(sizes(mitosis))
    assert seen == drawing[::-1]


def test_a_split_moves_the_last_to_join_and_a_merge_moves_them_back() -> None:
    mitosis = grown(MitosisSettings(n_lower=3, n_upper=6), 6)
    there = [Move(instance_id=f"i{n}", source_id="m0", target_id="m1") for n in (4, 5, 6)]
    assert mitosis.add("i6") == [
        Join(instance_id="i6", macro_id="m0"),
        Create(macro_id="m1"),
        *there,
    ]
    back = [Move(instance_id=f"i{n}", source_id="m1", target_id="m0") for n in (4, 5, 6)]
    assert mitosis.contract() == [
        Drain(instance_id="i3", macro_id="m0"),
        *back,
        Remove(macro_id="m1", heir_id="m0"),
    ]


def test_what_drains_from_a_merged_macro_instance_belongs_to_its_heir() -> None:
    mitosis = grown(MitosisSettings(n_lower=3, n_upper=6), 10)
    assert sizes(mitosis) == [6, 4]
    mitosis.contract()
    (drained,) = mitosis.draining
    assert mitosis.drains_from(drained) == "m1"
    while len(mitosis.macros) > 1:
        mitosis.contract()
    assert mitosis.drains_from(drained) == "m0"


def test_the_least_loaded_goes_and_among_equals_the_last() -> None:
    mitosis = grown(MitosisSettings(), 4)
    loads = {"i0": 3.0, "i1": 1.0, "i2": 1.0, "i3": 2.0}
    order = [effect.instance_id for _ in range(3) for effect in mitosis.contract(loads)]  # type: ignore[union-attr]
    assert order == ["i2", "i1", "i3"]


def test_a_draining_instance_is_called_back_before_a_new_one() -> None:
    mitosis = grown(MitosisSettings(n_lower=2, n_upper=4), 3)
    assert mitosis.call_back() == []
    assert mitosis.contract() == [Drain(instance_id="i2", macro_id="m0")]
    assert mitosis.draining == ("i2",)
    assert mitosis.call_back() == [Join(instance_id="i2", macro_id="m0", drained_from_id="m0")]
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
    served: int = 600,
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


def verdicts(trigger: ScalingTrigger, windows: list[Window]) -> list[Verdict]:
    return [trigger.observe(w).verdict for w in windows]


def quiet(num: int, count: int, served: int = 600) -> list[Window]:
    """Windows that ask for nothing: TTFT within its limit, hardly any TPOT saved."""
    return [window(30.0 * i - 30.0 * count, num, 1.0, 1.0, served) for i in range(count)]


HOLD, EXPAND, CONTRACT = Verdict.HOLD, Verdict.EXPAND, Verdict.CONTRACT


@pytest.mark.parametrize(("ttft_s", "verdict"), [(4.9, HOLD), (5.1, EXPAND)])
def test_mean_ttft_above_its_limit_expands(ttft_s: float, verdict: Verdict) -> None:
    assert ScalingTrigger().observe(window(0, 8, ttft_s, 1.0)).verdict is verdict


@pytest.mark.parametrize(("margin_s", "verdict"), [(-0.1, HOLD), (0.1, CONTRACT)])
def test_mean_saved_tpot_above_its_limit_contracts(margin_s: float, verdict: Verdict) -> None:
    trigger = ScalingTrigger(TriggerSettings(contract_windows=1))
    verdicts(trigger, quiet(8, 10))
    saved_s = 5.0 * 9 / 8 + margin_s
    assert trigger.observe(window(0, 8, 0.5, saved_s)).verdict is verdict


def test_a_decision_explains_itself() -> None:
    trigger = ScalingTrigger(TriggerSettings(max_instances=8, min_instances=8))
    assert trigger.observe(window(0, 8, 1.0, 1.0, refused=9)).reason == (
        "9 of 609 refused, but 8 instances are the most allowed"
    )
    assert trigger.observe(window(30, 8, 0.1, 99.0)).reason == "8 instances are the least allowed"
    slow = ScalingTrigger().observe(window(0, 8, 6.0, 1.0))
    assert slow.reason == "mean TTFT 6.00 s above 5.00 s"


def test_refusals_count_as_ttft_missed() -> None:
    assert ScalingTrigger().observe(window(0, 8, 1.0, 1.0, refused=9)).verdict is EXPAND
    trigger = ScalingTrigger(TriggerSettings(contract_windows=1))
    verdicts(trigger, quiet(8, 10))
    assert trigger.observe(window(0, 8, 0.1, 99.0, refused=1)).reason == "1 refused"


def test_too_few_and_too_many_instances_are_made_good() -> None:
    settings = TriggerSettings(min_instances=2, max_instances=4, contract_windows=1)
    assert ScalingTrigger(settings).observe(window(0, 0, None, None, 0)).verdict is EXPAND
    assert ScalingTrigger(settings).observe(window(0, 5, 9.0, 0.0)).verdict is CONTRACT


def test_a_decision_takes_effect_before_the_next() -> None:
    trigger = ScalingTrigger(TriggerSettings(cooldown_s=60.0, effect_timeout_s=120.0))
    there = [window(30.0 * i, 8 if i < 3 else 9, 9.0, 0.0) for i in range(4)]
    assert verdicts(trigger, there) == [EXPAND, HOLD, HOLD, EXPAND]
    never = [window(90 + 30.0 * i, 9, 9.0, 0.0) for i in range(1, 6)]
    assert verdicts(trigger, never) == [HOLD, HOLD, HOLD, EXPAND, HOLD]


def test_so_many_windows_in_a_row_have_to_agree() -> None:
    trigger = ScalingTrigger(TriggerSettings(expand_windows=2))
    slow = [9.0, 1.0, 9.0, 9.0]
    windows = [window(30.0 * i, 8, ttft_s, 1.0) for i, ttft_s in enumerate(slow)]
    assert verdicts(trigger, windows) == [HOLD, HOLD, HOLD, EXPAND]


def test_contraction_needs_room_for_the_load_of_the_one_that_goes() -> None:
    for used_share, ttft_s, verdict in [
        (None, 1.0, CONTRACT),
        (None, 2.4, HOLD),
        (0.5, 1.0, CONTRACT),
        (0.75, 0.1, HOLD),
    ]:
        trigger = ScalingTrigger()
        verdicts(trigger, quiet(8, 10))
        seen = [window(30.0 * i, 8, ttft_s, 30.0) for i in range(3)]
        shared = [msgspec.structs.replace(w, used_share=used_share) for w in seen]
        assert verdicts(trigger, shared)[-1] is verdict, (used_share, ttft_s)


def test_a_settled_size_goes_down_only_when_the_load_has_clearly_fallen() -> None:
    for served, verdict in [(600, HOLD), (520, HOLD), (400, CONTRACT), (0, CONTRACT)]:
        trigger = ScalingTrigger()
        verdicts(trigger, quiet(8, 40))
        seen = [window(30.0 * i, 8, 0.5, 30.0, served) for i in range(3)]
        assert verdicts(trigger, seen)[-1] is verdict, served


def test_a_load_of_few_requests_that_ends_is_noticed() -> None:
    trigger = ScalingTrigger()
    verdicts(trigger, quiet(2, 40, served=4))
    assert CONTRACT in verdicts(trigger, [window(30.0 * i, 2, None, None, 0) for i in range(20)])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("min_instances", 0),
        ("expand_windows", 0),
        ("settle_windows", 0),
        ("cooldown_s", -1.0),
        ("effect_timeout_s", float("nan")),
        ("room_share", 1.5),
        ("max_used_share", 1.0),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=setting):
        TriggerSettings(**{setting: value})  # type: ignore[arg-type]


def simulated(loads: list[float], seed: int, start: int) -> list[int]:
    """Sizes over windows: an instance serves one unit of load; TTFT and slack follow from it."""
    trigger, rng, num, history = ScalingTrigger(), random.Random(seed), start, []
    for index, load in enumerate(loads):
        noisy = load * rng.uniform(0.95, 1.05)
        busy = noisy / num
        ttft_s = 0.3 / max(0.02, 1 - busy) * rng.uniform(0.8, 1.25)
        saved_s = 12.0 * max(0.0, 1 - busy) * rng.uniform(0.9, 1.1)
        decision = trigger.observe(window(30.0 * index, num, ttft_s, saved_s, int(100 * noisy)))
        num += {EXPAND: 1, CONTRACT: -1, HOLD: 0}[decision.verdict]
        history.append(num)
    return history


@pytest.mark.parametrize("seed", range(3))
def test_a_rising_and_falling_load_is_followed(seed: int) -> None:
    loads = [4.0] * 60 + [8.0] * 60 + [12.0] * 60 + [8.0] * 60 + [4.0] * 120
    history = simulated(loads, seed, 6)
    top = history.index(max(history))
    assert 12 <= max(history) <= 18
    assert history[60:top] == sorted(history[60:top])
    assert history[top:] == sorted(history[top:], reverse=True)
    assert 4 < history[-1] <= 10
