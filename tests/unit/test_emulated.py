"""What only the emulated engine does: it finds a scheduler's mistakes, and takes its time."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

import pytest

from rondo.errors import ConfigError, EngineError
from rondo.perf.profile import LatencyProfile
from rondo.policy.plan import PlanItem, plan_of
from rondo.types import Phase
from rondo_worker.engines.base import EngineSpec
from rondo_worker.engines.emulated import EmulatedEngine
from rondo_worker.engines.hashing import extend_hash, hash_tokens
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
#: Room for hundreds of long requests at once.
WIDE = EngineSpec("none", "emulated", 4096, 100, 1024, 512, (1,))


def engine_with(spec: EngineSpec = SPEC) -> EmulatedEngine:
    return EmulatedEngine(spec, NOTHING, range(10, 100))


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
    driver = Driver(engine_with(WIDE), max_running=1000)
    requests = [
        request(f"r{i}", (10 + i % 90, 10 + i // 90), 1000, ignore_eos=False) for i in range(400)
    ]
    driver.submit(*requests)
    lengths = [len(answer) for answer in driver.run().values()]
    # Geometric with mean 64 has a deviation of 63.5; 400 of them, so 3.2 for their mean.
    assert 54 < mean(lengths) < 74
    assert {answer[-1] for answer in driver.answers.values()} == {1}


def test_a_hash_can_be_carried_on() -> None:
    whole = hash_tokens(range(50))
    part = hash_tokens(range(40))
    for token in range(40, 50):
        part = extend_hash(part, token)
    assert part == whole


def test_an_engine_without_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="ordinary_token_ids"):
        EmulatedEngine(SPEC, NOTHING, ())
