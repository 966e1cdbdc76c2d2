"""Latency profiles of live engines: what is measured, and the formula that is fitted to it."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from rondo.perf.profile import LatencyProfile
from rondo.policy.plan import StepPlan
from rondo.types import Chunk, Phase
from rondo_worker.engines.base import NO_LOGPROBS, EngineRequest, EngineSpec, StepLogprobs
from rondo_worker.engines.calibrate import CASES, GRID, MAX_STEP_TOKENS, Case, measure
from rondo_worker.engines.latency_fit import KINDS, Samples, fit_errors, fit_profile
from rondo_worker.engines.least_squares import fit_non_negative

SPEC = EngineSpec("none", "emulated", 4096, 100, 16, 2048, (1,))
#: A flat part that rises slowly, a line above it, attention, and decodes.
TRUTH = LatencyProfile(
    prefill_floor_ms=(5.0, 0.01),
    prefill_line_ms=(1.0, 0.04),
    prefill_attn_ms=(0.0, 0.0, 2e-6),
    decode_ms=(4.0, 0.05, 0.0003),
)


class InstantEngine:
    """Computes nothing; notes its plans' sizes."""

    def __init__(self, spec: EngineSpec = SPEC) -> None:
        self.spec = spec
        self.live: set[str] = set()
        self.phases: list[Phase] = []

    def add(self, request: EngineRequest) -> None:
        self.live.add(request.request_id)

    def remove(self, request_id: str) -> None:
        self.live.discard(request_id)

    def step(self, plan: StepPlan) -> dict[str, int]:
        self.phases.append(plan.phase)
        assert {item.request_id for item in plan.items} <= self.live
        return {item.request_id: 5 for item in plan.items}

    def take_logprobs(self) -> StepLogprobs:
        return NO_LOGPROBS

    def peak_bytes(self) -> int:
        return 0

    def close(self) -> None:
        self.live.clear()


def true_samples(noise: float = 0.0) -> Samples:
    """The sizes that the grid has on an engine, with the times of TRUTH; some were interrupted."""
    dice = random.Random(5)
    engine = InstantEngine()
    sizes = measure(engine, budget_s=0.2, cases=GRID).times_s
    samples = Samples()
    for size in sizes:
        time_s = TRUTH.step_s(*size) * (1.0 + noise * dice.uniform(-1.0, 1.0))
        samples.times_s[size] = [time_s, time_s * 1.002, time_s * 40.0]
    return samples


def test_every_kind_of_step_is_measured_and_nothing_is_left() -> None:
    engine = InstantEngine()
    samples = measure(engine, budget_s=0.2, cases=GRID)
    assert {phase.value for phase in engine.phases} == set(KINDS)
    assert all(len(samples.of(kind)) > 25 for kind in KINDS)
    assert max(tokens for tokens, *_ in samples.times_s) == MAX_STEP_TOKENS
    assert engine.live == set()


@pytest.mark.parametrize("cases", [CASES, GRID])
def test_cases_go_from_cheap_to_dear(cases: tuple[Case, ...]) -> None:
    # A case is forecast by its predecessors; one that jumps far ahead would run over the budget.
    assert all(later.work >= earlier.work / 8 for earlier, later in pairwise(cases))


def test_cases_that_do_not_fit_are_left_out() -> None:
    engine = InstantEngine(EngineSpec("none", "emulated", 60, 100, 16, 8, (1,)))
    samples = measure(engine, budget_s=0.05, cases=GRID)
    assert 0 < max(tokens for tokens, *_ in samples.times_s) <= 60


def test_a_profile_is_fitted_to_what_was_measured() -> None:
    fitted = fit_profile(SPEC, true_samples())
    for tokens in (16, 200, 1000, 3000):
        chunks = [Chunk(tokens, 100)]
        assert fitted.prefill_s(chunks) == pytest.approx(TRUTH.prefill_s(chunks), rel=0.01)
    for batch, context in ((1, 100), (8, 1000), (16, 4000)):
        assert fitted.decode_s(batch, context) == pytest.approx(
            TRUTH.decode_s(batch, context), rel=0.01
        )
        fused_s = TRUTH.step_s(256, 256**2, batch, context)
        assert fitted.step_s(256, 256**2, batch, context) == pytest.approx(fused_s, rel=0.01)
    assert fitted.num_blocks == SPEC.num_blocks


def test_noise_and_the_minimum_do_little_harm() -> None:
    samples = true_samples(noise=0.05)
    for take in (min, lambda times_s: sorted(times_s)[1]):
        profile = fit_profile(SPEC, samples, take)
        errors = fit_errors(profile, samples, take)
        assert list(errors) == list(KINDS)
        assert all(sum(values) / len(values) < 0.05 for values in errors.values())
        chunks = [Chunk(4000, 0)]
        assert profile.prefill_s(chunks) == pytest.approx(TRUTH.prefill_s(chunks), rel=0.1)


def test_few_samples_give_a_plain_line() -> None:
    samples = Samples()
    for tokens, time_s in ((8, 0.010), (128, 0.012), (512, 0.030)):
        samples.times_s[tokens, tokens * tokens, 0, 0] = [time_s]
    samples.times_s[0, 0, 1, 8] = [0.01]
    profile = fit_profile(SPEC, samples)
    assert profile.step_s(8, 64, 0, 0) == pytest.approx(0.010, rel=0.1)
    assert profile.step_s(2048, 2048**2, 0, 0) > 0.08


def test_non_negative_least_squares() -> None:
    rows = [(1.0, x, x * x) for x in (1.0, 2.0, 5.0, 9.0, 14.0)]
    exact = fit_non_negative(rows, [3.0 + 0.5 * x + 0.1 * y for _, x, y in rows])
    assert exact == pytest.approx([3.0, 0.5, 0.1])
    falling = fit_non_negative(rows, [20.0 - x for _, x, _ in rows])
    assert min(falling) >= 0.0
    assert falling[1:] == [0.0, 0.0], "a slope below zero becomes zero"
    same = fit_non_negative([(1.0, 4.0, 16.0)] * 3, [2.0, 2.0, 2.0])
    assert sum(c * f for c, f in zip(same, (1.0, 4.0, 16.0), strict=True)) == pytest.approx(2.0)
