"""Latency predictions follow what instances measure, and are hard to mislead."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo.perf.correction import DECODE, FUSED, LEAST, MOST, PREFILL, CorrectedModel
from rondo.perf.profile import load_profile
from rondo.types import Phase, StepStat

PROFILE = load_profile("codellama-34b-l20-tp4")


def step(duration_s: float, tokens: int = 0, decodes: int = 16) -> StepStat:
    phase = Phase.DECODE if not tokens else (Phase.FUSED if decodes else Phase.PREFILL)
    return StepStat(
        phase, duration_s, decodes + 1, tokens + decodes, tokens, tokens**2, decodes, 500 * decodes
    )


def predicted_s(tokens: int = 0, decodes: int = 16) -> float:
    return PROFILE.step_s(tokens, tokens**2, decodes, 500 * decodes)


@pytest.mark.parametrize(
    ("kind", "tokens", "decodes"), [(DECODE, 0, 16), (PREFILL, 512, 0), (FUSED, 128, 16)]
)
def test_a_true_factor_is_found_within_a_hundred_steps(
    kind: int, tokens: int, decodes: int
) -> None:
    rng, model = random.Random(1), CorrectedModel(PROFILE)
    base_s = predicted_s(tokens, decodes)
    for _ in range(100):
        model.observe(step(1.3 * base_s * rng.uniform(0.95, 1.05), tokens, decodes))
    assert model.factor(kind) == pytest.approx(1.3, rel=0.02)
    corrected_s = model.step_s(tokens, tokens**2, decodes, 500 * decodes)
    assert corrected_s == pytest.approx(1.3 * base_s, rel=0.02)
    assert model.error(kind) < 0.04
    others = {DECODE, PREFILL, FUSED} - {kind}
    assert [model.factor(other) for other in sorted(others)] == [1.0, 1.0]


def test_exact_predictions_stay_exact() -> None:
    model = CorrectedModel(PROFILE)
    for _ in range(50):
        model.observe(step(predicted_s()))
    assert model.factor(DECODE) == 1.0
    assert model.error(DECODE) == 0.0


def test_one_slow_step_hardly_matters() -> None:
    model = CorrectedModel(PROFILE)
    for _ in range(100):
        model.observe(step(predicted_s()))
    model.observe(step(50 * predicted_s()))
    assert 1.0 < model.factor(DECODE) < 1.03
    assert model.error(DECODE) < 0.03


def test_a_few_steps_are_not_believed_yet() -> None:
    model = CorrectedModel(PROFILE)
    for _ in range(7):
        model.observe(step(1.5 * predicted_s()))
    assert model.factor(DECODE) == 1.0
    model.observe(step(1.5 * predicted_s()))
    assert model.factor(DECODE) == pytest.approx(1.5)


@given(st.lists(st.floats(1e-9, 1e6), max_size=300))
def test_factors_and_errors_stay_within_their_bounds(durations_s: list[float]) -> None:
    model = CorrectedModel(PROFILE)
    for duration_s in durations_s:
        model.observe(step(duration_s))
        assert LEAST <= model.factor(DECODE) <= MOST
        assert 0.0 <= model.error(DECODE) <= 1.0


@pytest.mark.parametrize("duration_s", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_duration_that_is_none_is_not_learnt_from(duration_s: float) -> None:
    model = CorrectedModel(PROFILE)
    for _ in range(20):
        model.observe(step(duration_s))
        model.observe(step(1.2 * predicted_s()))
    assert model.factor(DECODE) == pytest.approx(1.2)
    assert 0.0 <= model.error(DECODE) < 0.17
