"""Coordinator, workers and gateway on a real nats-server: from prompt to text, come what may."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

import pytest

from rondo.errors import CapacityError, EngineError, InstanceLost, RondoError
from rondo.policy.padg import PadgScheduler
from rondo.types import FinishReason
from tests.support.buses import NatsHarness
from tests.support.collect import eventually
from tests.support.generations import (
    Gateway,
    Result,
    complete,
    gather_all,
    servable,
    start_gateway,
    text_of,
)
from tests.support.services import (
    EOS,
    ORDINARY,
    Stage,
    Worker,
    expected_tokens,
    metric,
    steps_of,
)

PROFILE = steps_of(3.0, 2.0)


@dataclass(frozen=True)
class Question:
    """A request, and what must come of it."""

    request_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    ignore_eos: bool

    def check(self, result: Result) -> None:
        """The answer is exactly what the engine computes for this prompt."""
        assert result.error is None
        expected = expected_tokens(self.prompt, self.max_tokens, ignore_eos=self.ignore_eos)
        assert result.text == text_of(expected)
        assert result.num_tokens == len(expected)
        ended = expected[-1] == EOS and not self.ignore_eos
        assert result.finish is (FinishReason.STOP if ended else FinishReason.LENGTH)

    def check_beginning(self, result: Result) -> None:
        """What came before an error is no other text."""
        expected = text_of(expected_tokens(self.prompt, self.max_tokens, ignore_eos=True))
        if self.ignore_eos:
            assert expected.startswith(result.text)


def questions(count: int, seed: int, max_answer: int = 80) -> list[Question]:
    """Mixed lengths; some longer than a prefill step, some that end by themselves."""
    chance = random.Random(seed)
    return [
        Question(
            request_id=f"q{seed}-{index}",
            prompt=tuple(chance.choices(ORDINARY, k=chance.choice((1, 15, 16, 100, 300, 700)))),
            max_tokens=chance.randint(1, max_answer),
            ignore_eos=chance.random() < 0.7,
        )
        for index in range(count)
    ]


async def cluster(stage: Stage, num_gateways: int = 1) -> list[Gateway]:
    """A coordinator, two workers, and gateways that see them."""
    await stage.coordinator(lease_s=1.0)
    for index in range(2):
        await stage.worker(f"w{index}", profile=PROFILE)
    gateways = []
    for index in range(num_gateways):
        bus = await stage.harness.bus(f"g{index}")
        gateways.append(await start_gateway(bus, f"g{index}"))
        await servable(gateways[-1], 2)
    return gateways


def policy(stage: Stage) -> PadgScheduler:
    return stage.coordinators[0].policies[-1]


async def nothing_left(stage: Stage) -> None:
    """The last reports come in, and nobody thinks that anything runs."""

    def empty() -> bool:
        views = policy(stage).views.values()
        return not policy(stage).placed and all(not view.num_requests for view in views)

    await eventually(empty, "the policy knows that all is over")
    policy(stage).check_invariants()


async def test_fifty_answers_are_exact(stage: Stage) -> None:
    gateways = await cluster(stage, num_gateways=2)
    asked = questions(50, seed=1)
    generations = [
        gateways[index % 2].generation(
            one.request_id, one.prompt, one.max_tokens, ignore_eos=one.ignore_eos
        )
        for index, one in enumerate(asked)
    ]
    results = await gather_all(*generations)
    for question, result in zip(asked, results, strict=True):
        question.check(result)
    await nothing_left(stage)
    for worker in stage.workers:  # both took part
        assert metric(worker.registry, "rondo_tokens_total", phase="prefill") > 0
    for gateway in gateways:
        assert metric(gateway.registry, "rondo_token_frame_gaps_total") == 0
        assert metric(gateway.registry, "rondo_live_answers") == 0


async def test_clients_that_leave_cost_nothing_afterwards(stage: Stage) -> None:
    [gateway] = await cluster(stage)
    tasks = [
        asyncio.create_task(complete(gateway.generation(f"r{index}", [20, 30], 900)))
        for index in range(20)
    ]
    decoding = [worker.registry for worker in stage.workers]
    await eventually(
        lambda: sum(metric(r, "rondo_tokens_total", phase="decode") for r in decoding) > 100,
        "answers are under way",
    )
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await nothing_left(stage)
    for registry in decoding:
        await eventually(
            lambda registry=registry: metric(registry, "rondo_kv_blocks", state="used") == 0,  # type: ignore[misc]
            "all blocks are free",
        )


async def test_a_worker_that_drains_loses_no_answer(stage: Stage) -> None:
    [gateway] = await cluster(stage)
    asked = questions(20, seed=3, max_answer=300)
    answering = [
        asyncio.create_task(
            complete(
                gateway.generation(
                    one.request_id, one.prompt, one.max_tokens, ignore_eos=one.ignore_eos
                )
            )
        )
        for one in asked
    ]

    def busy() -> list[Worker]:
        workers = stage.workers
        return [w for w in workers if metric(w.registry, "rondo_requests", state="running")]

    await eventually(lambda: bool(busy()), "a worker has something to finish")
    await busy()[0].stop(10.0)
    for question, result in zip(asked, await asyncio.gather(*answering), strict=True):
        question.check(result)


async def test_a_restart_of_the_bus_ends_in_answers_or_typed_errors(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where the report of a whole answer was lost, the policy keeps its grant for this time.
    monkeypatch.setattr("rondo.policy.grants.GRANT_TIMEOUT_S", 1.5)
    [gateway] = await cluster(stage)
    assert isinstance(stage.harness, NatsHarness)
    asked = questions(50, seed=2, max_answer=300)
    started_s = time.monotonic()
    answering = [
        asyncio.create_task(
            complete(
                gateway.generation(
                    one.request_id, one.prompt, one.max_tokens, ignore_eos=one.ignore_eos
                )
            )
        )
        for one in asked
    ]
    await eventually(
        lambda: metric(gateway.registry, "rondo_token_frames_total") > 50, "answers are under way"
    )
    await stage.harness.server.restart()
    results = await asyncio.wait_for(asyncio.gather(*answering), 30)
    took_s = time.monotonic() - started_s
    assert took_s < 20
    complete_answers = 0
    for question, result in zip(asked, results, strict=True):
        if result.error is None:
            complete_answers += 1
            question.check(result)
        else:
            _check_typed(result.error)
            question.check_beginning(result)
    assert complete_answers >= 25  # a restart costs at most what was on the wire just then
    await servable(gateway, 2)
    fresh = questions(20, seed=4)
    generations = [
        gateway.generation(q.request_id, q.prompt, q.max_tokens, ignore_eos=q.ignore_eos)
        for q in fresh
    ]
    for question, result in zip(fresh, await gather_all(*generations), strict=True):
        question.check(result)
    await nothing_left(stage)
    assert not any(worker.deaths for worker in stage.workers)


def _check_typed(error: RondoError) -> None:
    assert isinstance(error, InstanceLost | EngineError | CapacityError)
