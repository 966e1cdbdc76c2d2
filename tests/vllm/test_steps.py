"""What reaches vLLM's model runner of a plan, and what it forgets."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rondo.errors import EngineError
from rondo.policy.plan import PlanItem, StepPlan, plan_of
from rondo.types import Phase, Sampling
from rondo_worker.engines.vllm import VllmEngine
from tests.support.drive import Driver, answers, request
from tests.support.models import VOCAB_SIZE

BLOCK_SIZE = 32
NUM_BLOCKS = 8


@pytest.fixture(scope="module")
def engine(model_folder: Path) -> Iterator[VllmEngine]:
    made = VllmEngine.load(
        model_folder,
        dtype="float32",
        block_size=BLOCK_SIZE,
        num_blocks=NUM_BLOCKS,
        max_running=8,
        max_prefill_tokens=64,
    )
    yield made
    made.close()


def runner_of(engine: VllmEngine) -> Any:
    return engine._executor.driver_worker.worker.model_runner


@pytest.fixture
def scheduled(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """What vLLM's model runner was told to compute, pass by pass."""
    seen: list[dict[str, int]] = []
    runner = runner_of(engine)
    execute = runner.execute_model

    def spy(output: Any, *args: Any) -> Any:
        assert output.total_num_scheduled_tokens == sum(output.num_scheduled_tokens.values())
        result = execute(output, *args)
        assert set(runner.input_batch.req_ids) == set(output.num_scheduled_tokens)
        seen.append(dict(output.num_scheduled_tokens))
        return result

    monkeypatch.setattr(runner, "execute_model", spy)
    return seen


def some_prompt(dice: random.Random, longest: int = 90) -> list[int]:
    return dice.choices(range(3, VOCAB_SIZE), k=dice.randint(1, longest))


def test_only_the_planned_phase_is_computed(
    engine: VllmEngine, scheduled: list[dict[str, int]]
) -> None:
    dice = random.Random(5)
    driver = Driver(engine, max_running=6, max_prefill_tokens=48)
    decoding: set[str] = set()
    phases: set[Phase] = set()
    for number in range(60):
        if number % 6 == 0:
            driver.submit(request(f"r{number}", some_prompt(dice), 20))
        scheduled.clear()
        done = driver.step()
        if done is None:
            continue
        plan, outcome = done
        phases.add(plan.phase)
        assert scheduled == [{item.request_id: item.num_tokens for item in plan.items}]
        if plan.phase is Phase.PREFILL:
            assert not decoding & set(scheduled[0])
        else:
            assert set(scheduled[0].values()) == {1}
        decoding |= {token.request_id for token in outcome.tokens}
        decoding -= {end.request_id for end in outcome.finished}
    driver.run()
    assert phases == {Phase.PREFILL, Phase.DECODE}


def test_a_fused_step_is_one_pass_and_changes_no_token(
    engine: VllmEngine, scheduled: list[dict[str, int]]
) -> None:
    first, second = request("a", range(3, 20), 4), request("b", range(30, 60), 3)
    expected = answers(engine, [first]) | answers(engine, [second])
    engine.add(first)
    engine.add(second)
    tokens: dict[str, list[int]] = {"a": [], "b": []}

    def step(plan: StepPlan) -> None:
        for request_id, token in engine.step(plan).items():
            tokens[request_id].append(token)

    step(plan_of(Phase.PREFILL, [PlanItem("a", 0, 17, [4])]))
    scheduled.clear()
    for start, size, position in ((0, 20, 17), (20, 10, 18)):
        decode = plan_of(Phase.DECODE, [PlanItem("a", position, 1, [4])])
        chunk = PlanItem("b", start, size, [7])
        step(StepPlan(Phase.FUSED, [chunk], 1, position, decode.list_decodes))
    assert scheduled == [{"b": 20, "a": 1}, {"b": 10, "a": 1}]
    for position in (30, 31):
        step(plan_of(Phase.DECODE, [PlanItem("b", position, 1, [7])]))
    step(plan_of(Phase.DECODE, [PlanItem("a", 19, 1, [4])]))
    assert tokens == expected
    engine.remove("a")
    engine.remove("b")


def test_a_plan_beyond_the_buffers_is_computed_in_passes(
    engine: VllmEngine, scheduled: list[dict[str, int]]
) -> None:
    dice = random.Random(8)
    requests = [request(f"r{i}", some_prompt(dice), 5) for i in range(4)]
    small = answers(engine, requests, max_prefill_tokens=40)
    scheduled.clear()
    assert answers(engine, requests) == small
    limit = 64 + 8  # max_prefill_tokens and max_running of the engine
    assert max(sum(tokens.values()) for tokens in scheduled) == limit


def test_random_adds_aborts_and_steps_leave_nothing_behind(engine: VllmEngine) -> None:
    dice = random.Random(11)
    driver = Driver(engine, max_running=6, max_prefill_tokens=48)
    for number in range(900):
        live = [r for r in driver.answers if driver.scheduler.has(r)]
        what = dice.random()
        if what < 0.25 and len(live) < 10:
            sampling = Sampling(temperature=dice.choice((0.0, 0.9)), seed=number)
            driver.submit(request(f"q{number}", some_prompt(dice), dice.randint(1, 60), sampling))
        elif what < 0.35 and live:
            driver.cancel(dice.choice(live))
        else:
            driver.step()
    driver.run()
    assert driver.scheduler.num_preempted > 0
    assert driver.scheduler.ledger.num_free == NUM_BLOCKS
    answers(engine, [request("last", [3, 4], 2)])  # with it vLLM hears who is gone
    answers(engine, [request("very last", [3, 4], 1)])
    runner = runner_of(engine)
    assert list(runner.requests) == ["very last"]
    assert not engine._known
    assert engine._gone == {"very last"}


def test_a_thread_of_its_own_may_step(engine: VllmEngine) -> None:
    requests = [request("r", range(3, 60), 12)]
    expected = answers(engine, requests)
    elsewhere: list[dict[str, list[int]]] = []
    thread = threading.Thread(target=lambda: elsewhere.append(answers(engine, requests)))
    thread.start()
    thread.join(60)
    assert elsewhere == [expected]


def test_an_error_of_vllm_names_the_requests_and_the_engine_goes_on(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answers(engine, [request("good", range(3, 30), 6)])
    runner = runner_of(engine)
    with monkeypatch.context() as broken:
        broken.setattr(runner, "_model_forward", lambda *args, **named: 1 // 0)
        engine.add(request("bad", [3, 4, 5], 4))
        with pytest.raises(EngineError, match="ZeroDivisionError") as caught:
            engine.step(plan_of(Phase.PREFILL, [PlanItem("bad", 0, 3, [0])]))
    assert caught.value.request_ids == ("bad",)
    engine.remove("bad")
    assert answers(engine, [request("good", range(3, 30), 6)]) == expected
