"""One suite for every engine that is installed: what the worker's step loop relies on."""

from __future__ import annotations

from typing import Any

import pytest

from rondo.errors import EngineError
from rondo.policy.plan import PlanItem, plan_of
from rondo.types import FinishReason, Phase, Sampling
from rondo_worker.engines.base import Engine
from rondo_worker.engines.calibrate import calibrate
from tests.support.drive import Driver, answers, request
from tests.support.engines import NUM_BLOCKS, MakeEngine, batch, prompts
from tests.support.models import EOS_TOKEN_ID, VOCAB_SIZE, build_model


def test_spec_says_what_was_asked_for(engine: Engine, block_size: int) -> None:
    spec = engine.spec
    assert (spec.block_size, spec.num_blocks) == (block_size, NUM_BLOCKS)
    assert spec.vocab_size == VOCAB_SIZE
    assert spec.eos_token_ids == (EOS_TOKEN_ID,)
    assert spec.max_model_len == 512


def test_memory_is_told_in_bytes(engine: Engine, kind: str, block_size: int) -> None:
    spec = engine.spec
    if kind == "emulated":
        assert (spec.weight_bytes, spec.kv_bytes) == (0, 0)
    else:
        weights = sum(part.numel() for part in build_model("llama", head_dim=32).parameters())
        assert 4 * weights <= spec.weight_bytes < 12 * weights
        # 3 layers, keys and values of 2 heads of 32, float32; vLLM keeps one block for itself.
        per_block = 3 * 2 * 2 * 32 * 4 * block_size
        assert spec.kv_bytes in (NUM_BLOCKS * per_block, (NUM_BLOCKS + 1) * per_block)
    answers(engine, batch(2))
    peak = engine.peak_bytes()
    assert peak > spec.weight_bytes + spec.kv_bytes
    assert engine.peak_bytes() >= peak
    engine.close()
    assert engine.peak_bytes() == 0 or kind == "emulated"


def test_a_length_beyond_the_pool_is_not_promised(make_engine: MakeEngine, block_size: int) -> None:
    assert make_engine(num_blocks=10).spec.max_model_len == 10 * block_size
    assert make_engine(max_model_len=99).spec.max_model_len == 99


def test_all_requests_end_with_their_token_limit_and_the_pool_is_free(engine: Engine) -> None:
    driver = Driver(engine, max_running=5, max_prefill_tokens=32)
    requests = batch(12)
    driver.submit(*requests)
    driver.run()
    assert driver.finished == {item.request_id: FinishReason.LENGTH for item in requests}
    assert all(len(answer) == 24 for answer in driver.answers.values())
    assert driver.scheduler.ledger.num_free == NUM_BLOCKS


def test_only_items_that_reach_their_end_get_tokens(engine: Engine) -> None:
    driver = Driver(engine, max_prefill_tokens=10)
    driver.submit(request("long", prompts(1, shortest=25, longest=25)[0], 4))
    phases = []
    while (done := driver.step()) is not None:
        plan, outcome = done
        phases.append((plan.phase, len(outcome.tokens)))
    chunks = [(Phase.PREFILL, 0), (Phase.PREFILL, 0), (Phase.PREFILL, 1)]
    assert phases == chunks + [(Phase.DECODE, 1)] * 3


def test_requests_that_join_later_do_not_disturb_those_that_run(engine: Engine) -> None:
    requests = batch(6)
    alone = {r.request_id: answers(engine, [r])[r.request_id] for r in requests}
    driver = Driver(engine)
    for item in requests:
        driver.submit(item)
        driver.step()
        driver.step()
    assert driver.run() == alone


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9}, {"temperature": 1.3, "top_p": 0.8}])
def test_a_seed_gives_the_same_tokens_with_other_batch_mates(
    engine: Engine, sampling: dict[str, Any]
) -> None:
    requests = batch(8, **sampling)
    together = answers(engine, requests)
    again = answers(engine, requests)
    alone = answers(engine, [requests[3]])
    few = answers(engine, [requests[5], requests[3]], max_prefill_tokens=7)
    assert again == together
    assert alone["r3"] == together["r3"] == few["r3"]


def test_aborted_requests_free_their_blocks_and_leave_the_others_alone(engine: Engine) -> None:
    requests = batch(6)
    expected = answers(engine, requests)
    driver = Driver(engine, max_prefill_tokens=16)
    driver.submit(*requests)
    driver.cancel("r5")  # before anything was computed
    driver.step()
    driver.cancel("r0")  # after, or amid, its prefill
    for _ in range(12):
        driver.step()
    driver.cancel("r2")
    held = {block for item in requests for block in driver.scheduler.ledger.table(item.request_id)}
    assert len(held) == NUM_BLOCKS - driver.scheduler.ledger.num_free
    driver.run()
    for request_id in ("r1", "r3", "r4"):
        assert driver.answers[request_id] == expected[request_id]
    assert driver.scheduler.ledger.num_free == NUM_BLOCKS
    assert answers(engine, requests) == expected, "the engine is as good as new"


def test_the_next_turn_of_a_chat_reuses_the_answer_before_it(
    engine: Engine, block_size: int
) -> None:
    driver = Driver(engine)
    question = prompts(1, shortest=70, longest=70)[0]
    driver.submit(request("first", question, 40))
    answer = tuple(driver.run()["first"])
    chat = (*question, *answer, *prompts(2)[1])
    driver.submit(request("second", chat, 24))
    again = driver.run()["second"]
    # The last token of an answer is never computed, and a block is shared whole or not at all.
    shared = (len(question) + len(answer) - 1) // block_size * block_size
    assert driver.scheduler.board.pool.shared_tokens == shared
    assert again == answers(engine, [request("alone", chat, 24)])["alone"]


def test_an_eos_token_ends_an_answer_unless_it_is_ignored(engine: Engine) -> None:
    driver = Driver(engine)
    for number, prompt in enumerate(prompts(20)):
        driver.submit(request(f"open{number}", prompt, 200, Sampling(seed=number), False))
    driver.run()
    stopped = [r for r, reason in driver.finished.items() if reason is FinishReason.STOP]
    assert stopped, "of twenty answers of up to 200 tokens some end by themselves"
    for request_id, answer in driver.answers.items():
        assert EOS_TOKEN_ID not in answer[:-1]
        assert (answer[-1] == EOS_TOKEN_ID) == (request_id in stopped)


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "says"),
    [
        ((), 4, "empty"),
        ((3, VOCAB_SIZE), 4, "outside 0..159"),
        ((3, -1), 4, "outside 0..159"),
        ((3,) * 500, 13, "513 tokens, the model takes 512"),
    ],
)
def test_a_bad_prompt_is_refused_when_added(
    engine: Engine, prompt: tuple[int, ...], max_tokens: int, says: str
) -> None:
    with pytest.raises(EngineError, match=says) as caught:
        engine.add(request("bad", prompt, max_tokens))
    assert caught.value.request_ids == ("bad",)
    assert len(answers(engine, batch(2))) == 2


def test_an_id_cannot_be_added_twice_but_used_again(engine: Engine) -> None:
    engine.add(request("r", (3, 4), 2))
    with pytest.raises(EngineError, match="already known"):
        engine.add(request("r", (3, 4), 2))
    engine.remove("r")
    engine.remove("r")
    assert len(answers(engine, [request("r", (3, 4), 2)])["r"]) == 2


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (PlanItem("nobody", 0, 1, [0]), "nobody: is not known"),
        (PlanItem("r", 0, 5, [0, 1]), "over tokens 0..5 of 4"),
        (PlanItem("r", 0, 0, [0]), "over tokens 0..0"),
        (PlanItem("r", 2, 2, [0]), "starts at token 2, but 0 are cached"),
        (PlanItem("r", 0, 4, []), "0 KV blocks do not cover 4 tokens"),
    ],
)
def test_a_plan_that_does_not_fit_is_an_error(engine: Engine, item: PlanItem, says: str) -> None:
    engine.add(request("r", (3, 4, 5, 6), 4))
    with pytest.raises(EngineError, match=says) as caught:
        engine.step(plan_of(Phase.PREFILL, (item,)))
    assert caught.value.request_ids == (item.request_id,)
    with pytest.raises(EngineError, match="decode step"):
        engine.step(plan_of(Phase.DECODE, (PlanItem("r", 0, 1, [0]),)))
    with pytest.raises(EngineError, match="empty"):
        engine.step(plan_of(Phase.DECODE, ()))


def test_calibration_gives_a_usable_profile_and_leaves_the_engine_empty(
    make_engine: MakeEngine, block_size: int
) -> None:
    for options in ({}, {"num_blocks": max(2, 48 // block_size)}, {"max_model_len": 40}):
        engine = make_engine(**options)
        profile = calibrate(engine, budget_s=0.2)
        assert profile.name == engine.spec.model
        assert (profile.block_size, profile.num_blocks) == (block_size, engine.spec.num_blocks)
        short, long = profile.decode_s(1, 10), profile.decode_s(64, 10_000)
        assert 0.0 < short <= long
        assert len(answers(engine, batch(2, max_tokens=3))) == 2


def test_close_forgets_everything(engine: Engine) -> None:
    engine.add(request("r", (3, 4, 5, 6), 4))
    engine.close()
    with pytest.raises(EngineError):
        engine.step(plan_of(Phase.PREFILL, (PlanItem("r", 0, 4, [0]),)))
