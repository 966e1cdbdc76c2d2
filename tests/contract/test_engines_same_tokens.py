"""What must not change a token of any engine: chunks, preemption, shared blocks, another engine."""

from __future__ import annotations

import pytest

from rondo.types import Sampling
from rondo_worker.engines.base import Engine, EngineRequest
from tests.support.drive import Driver, answers, request
from tests.support.engines import MakeEngine, batch, prompts


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_chunked_prefill_changes_no_token(engine: Engine, temperature: float) -> None:
    requests = batch(7, temperature=temperature)
    whole = answers(engine, requests)
    for max_prefill_tokens in (1, 5, 16):
        assert answers(engine, requests, max_prefill_tokens=max_prefill_tokens) == whole


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_preemption_changes_no_token(
    make_engine: MakeEngine, block_size: int, temperature: float
) -> None:
    requests = batch(9, max_tokens=40, temperature=temperature, presence_penalty=0.5)
    plenty = answers(make_engine(), requests)
    num_blocks = 160 // block_size
    driver = Driver(make_engine(num_blocks=num_blocks), max_prefill_tokens=24)
    driver.submit(*requests)
    assert driver.run() == plenty
    assert driver.scheduler.num_preempted > 0
    assert driver.scheduler.ledger.num_free == num_blocks


def test_a_request_taken_over_with_its_tokens_goes_on_the_same(engine: Engine) -> None:
    first = request("first", prompts(1)[0], 20)
    whole = answers(engine, [first])["first"]
    rest = request("rest", (*first.prompt, *whole[:8]), 12)
    assert answers(engine, [rest])["rest"] == whole[8:]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_prompts_that_begin_alike_share_their_blocks_and_change_no_token(
    engine: Engine, temperature: float
) -> None:
    size = engine.spec.block_size
    common = prompts(1, shortest=5 * size + 1, longest=5 * size + 1)[0]
    ends = [(), *prompts(5, shortest=1, longest=2 * size)]
    requests = [
        request(f"r{i}", common + end, 12, Sampling(temperature=temperature, seed=i))
        for i, end in enumerate(ends)
    ]
    alone = {r.request_id: answers(engine, [r])[r.request_id] for r in requests}
    driver = Driver(engine, max_prefill_tokens=3 * size)
    pool = driver.scheduler.board.pool
    driver.submit(requests[0])
    driver.run()
    assert pool.shared_tokens == 0
    driver.submit(*requests[1:])
    assert driver.run() == alone
    assert pool.shared_tokens == 5 * 5 * size
    driver.submit(*(request(f"again{i}", r.prompt, 12, r.sampling) for i, r in enumerate(requests)))
    driver.run()
    assert all(driver.answers[f"again{i}"] == alone[f"r{i}"] for i in range(len(requests)))
    assert driver.scheduler.ledger.num_free == engine.spec.num_blocks


def test_a_full_pool_drops_what_was_kept_and_changes_no_token(
    make_engine: MakeEngine, block_size: int
) -> None:
    requests = batch(12, max_tokens=30)
    engine = make_engine(num_blocks=160 // block_size)
    plenty = {r.request_id: answers(engine, [r])[r.request_id] for r in requests}
    driver = Driver(engine, max_prefill_tokens=24)
    for _ in range(3):
        driver.submit(*requests)
        assert driver.run() == plenty
    assert driver.scheduler.num_preempted > 0


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.0),
        Sampling(temperature=0.9, seed=5),
        Sampling(temperature=0.9, seed=5, presence_penalty=1.5, frequency_penalty=0.5),
    ],
)
@pytest.mark.parametrize("given", [1, 8, 19])
def test_an_answer_that_another_engine_began_goes_on_as_it_would_have(
    engine: Engine, sampling: Sampling, given: int
) -> None:
    first = request("first", prompts(1)[0], 20, sampling)
    whole = answers(engine, [first])["first"]
    rest = EngineRequest(
        "rest", (*first.prompt, *whole[:given]), 20 - given, sampling, True, num_resumed=given
    )
    assert answers(engine, [rest])["rest"] == whole[given:]
