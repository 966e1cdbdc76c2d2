"""What only the emulated engine does: it finds a scheduler's mistakes, and takes its time."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

import pytest

from rondo.errors import ConfigError, EngineError
from rondo.perf.profile import LatencyProfile
from rondo.policy.plan import PlanItem, plan_of
from rondo.types import Chunk, Phase
from rondo_worker.engines.base import EngineSpec
from rondo_worker.engines.calibrate import CASES, Samples, fit_profile
from rondo_worker.engines.emulated import EmulatedEngine
from rondo_worker.engines.hashing import extend_hash, hash_tokens
from rondo_worker.engines.least_squares import fit_non_negative
from tests.support.drive import Driver, request

NOTHING = LatencyProfile(
    name="nothing",
    source="made up for tests",
    prefill_floor_ms=(0.0, 0.0),
    prefill_line_ms=(0.0, 0.0),
    prefill_attn_ms=(0.0, 0.0, 0.0),
    decode_ms=(0.0, 0.0, 0.0),
)
SPEC = EngineSpec("none", "emulated", 4096, 100, 4, 1024, (1,))


def engine_with(profile: LatencyProfile = NOTHING) -> EmulatedEngine:
    return EmulatedEngine(SPEC, profile, range(10, 100))


def prefill(request_id: str, start: int, count: int, blocks: Sequence[int]) -> PlanItem:
    return PlanItem(request_id, start, count, blocks)


def run(engine: EmulatedEngine, *items: PlanItem, phase: Phase = Phase.PREFILL) -> dict[str, int]:
    return engine.step(plan_of(phase, items))


def two_requests() -> EmulatedEngine:
    engine = engine_with()
    engine.add(request("a", range(10, 18), 8))
    engine.add(request("b", range(20, 28), 8))
    return engine


def test_a_block_in_two_tables_of_one_step_is_found() -> None:
    engine = two_requests()
    with pytest.raises(EngineError, match="request b: KV block 1 belongs to a in the same step"):
        run(engine, prefill("a", 0, 8, [0, 1]), prefill("b", 0, 8, [2, 1]))


def test_a_block_twice_in_a_table_is_found() -> None:
    with pytest.raises(EngineError, match="KV block 3 belongs to a"):
        run(two_requests(), prefill("a", 0, 8, [3, 3]))


def test_a_request_twice_in_a_plan_is_found() -> None:
    engine = two_requests()
    with pytest.raises(EngineError, match="twice"):
        run(engine, prefill("a", 0, 8, [0, 1]), prefill("a", 0, 8, [2, 3]))


def test_a_block_outside_the_pool_is_found() -> None:
    with pytest.raises(EngineError, match="KV block 1024 of a pool of 1024"):
        run(two_requests(), prefill("a", 0, 8, [0, 1024]))


def test_a_table_that_changes_under_cached_tokens_is_found() -> None:
    engine = two_requests()
    run(engine, prefill("a", 0, 4, [0]))
    with pytest.raises(EngineError, match="KV block 5 does not hold its tokens from 0 on"):
        run(engine, prefill("a", 4, 4, [5, 6]))


def test_a_table_that_changes_amid_a_block_is_found() -> None:
    engine = two_requests()
    run(engine, prefill("a", 0, 6, [0, 1]))
    with pytest.raises(EngineError, match="its block table changed"):
        run(engine, prefill("a", 6, 2, [0, 5]))


def test_who_lost_a_block_must_start_over() -> None:
    engine = two_requests()
    run(engine, prefill("a", 0, 8, [0, 1]))
    run(engine, prefill("b", 0, 8, [1, 2]))
    with pytest.raises(EngineError, match="starts at token 8, but 0 are cached"):
        run(engine, prefill("a", 8, 1, [0, 1, 3]), phase=Phase.DECODE)
    assert set(run(engine, prefill("a", 0, 9, [0, 4, 3]))) == {"a"}


def test_a_preempted_request_may_swap_blocks_with_another_in_one_step() -> None:
    engine = two_requests()
    run(engine, prefill("a", 0, 8, [0, 1]))
    assert set(run(engine, prefill("b", 0, 8, [1, 2]), prefill("a", 0, 9, [0, 4, 3]))) == {"a", "b"}


def test_answers_have_the_documented_length() -> None:
    engine = engine_with()
    driver = Driver(engine, max_running=1000)
    requests = [
        request(f"r{i}", (10 + i % 90, 10 + i // 90), 1000, ignore_eos=False) for i in range(400)
    ]
    for item in requests:
        driver.submit(item)
        driver.step()
        driver.run()
    lengths = [len(answer) for answer in driver.answers.values()]
    # Geometric with mean 64 has a deviation of 63.5; 400 of them, so 3.2 for their mean.
    assert 54 < mean(lengths) < 74
    assert {answer[-1] for answer in driver.answers.values()} == {1}


@pytest.mark.parametrize("floor_ms", [0.0, 12.0])
def test_a_profile_is_recovered_from_its_own_times(floor_ms: float) -> None:
    profile = LatencyProfile(
        name="known",
        source="made up for tests",
        prefill_floor_ms=(floor_ms, 0.0),
        prefill_line_ms=(0.5, 0.02),
        prefill_attn_ms=(0.0, 0.0, 2e-6),
        decode_ms=(1.0, 0.05, 0.0003),
    )
    samples = Samples()
    for prompts, tokens, steps in CASES:
        size = tokens // steps
        for start in range(0, tokens, size):
            items = [prefill(f"r{i}", start, size, ()) for i in range(prompts)]
            chunks = [Chunk(size, start)] * prompts
            plan = plan_of(Phase.PREFILL, tuple(items))
            for noise in (1.0, 1.01, 40.0):  # a median does not see the interruption
                samples.add(plan, profile.prefill_s(chunks) * noise)
        items = [prefill(f"r{i}", tokens, 1, ()) for i in range(prompts)]
        samples.add(plan_of(Phase.DECODE, tuple(items)), profile.decode_s(prompts, 0))
        samples.decode[prompts, prompts * tokens] = [profile.decode_s(prompts, prompts * tokens)]
    fitted = fit_profile(SPEC, samples)
    for tokens in (16, 200, 1000, 5000):
        chunks = [Chunk(tokens, 100)]
        assert fitted.prefill_s(chunks) == pytest.approx(profile.prefill_s(chunks), rel=0.05)
    for batch, context in ((1, 100), (8, 1000), (16, 4000)):
        expected_s = profile.decode_s(batch, context)
        assert fitted.decode_s(batch, context) == pytest.approx(expected_s, rel=0.01)
    assert fitted.num_blocks == SPEC.num_blocks


def test_non_negative_least_squares() -> None:
    rows = [(1.0, x, x * x) for x in (1.0, 2.0, 5.0, 9.0, 14.0)]
    exact = fit_non_negative(rows, [3.0 + 0.5 * x + 0.1 * y for _, x, y in rows])
    assert exact == pytest.approx([3.0, 0.5, 0.1])
    falling = fit_non_negative(rows, [20.0 - x for _, x, _ in rows])
    assert min(falling) >= 0.0
    assert falling[1:] == [0.0, 0.0], "a slope below zero becomes zero"
    same = fit_non_negative([(1.0, 4.0, 16.0)] * 3, [2.0, 2.0, 2.0])
    assert sum(c * f for c, f in zip(same, (1.0, 4.0, 16.0), strict=True)) == pytest.approx(2.0)


def test_a_hash_can_be_carried_on() -> None:
    whole = hash_tokens(range(50))
    part = hash_tokens(range(40))
    for token in range(40, 50):
        part = extend_hash(part, token)
    assert part == whole


def test_an_engine_without_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="ordinary_token_ids"):
        EmulatedEngine(SPEC, NOTHING, ())
