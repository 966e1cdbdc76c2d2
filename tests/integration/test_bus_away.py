"""The bus is away for longer than anybody waits: requests end with typed errors, programs live."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import msgspec

from rondo.errors import CapacityError, InstanceLost
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
from tests.support.services import Stage, expected_tokens, metric, steps_of

PROMPT = tuple(range(20, 40))
LONG = 800


async def cluster(stage: Stage) -> Gateway:
    """A coordinator, two workers and a gateway that waits for nothing very long."""
    await stage.coordinator(lease_s=0.6)
    for index in range(2):
        await stage.worker(f"w{index}", profile=steps_of(3.0, 5.0))
    gateway = await start_gateway(await stage.harness.bus("g0"), stall_s=0.1)
    await servable(gateway, 2)
    settings = msgspec.structs.replace(
        gateway.links.settings, no_coordinator_timeout_s=0.5, resume_timeout_s=0.7
    )
    gateway.links = dataclasses.replace(gateway.links, settings=settings)
    return gateway


def server_of(stage: Stage) -> NatsHarness:
    assert isinstance(stage.harness, NatsHarness)
    return stage.harness


async def test_requests_end_with_typed_errors_and_all_is_well_afterwards(stage: Stage) -> None:
    gateway = await cluster(stage)
    server = server_of(stage).server
    running = [
        asyncio.create_task(complete(gateway.generation(f"r{n}", PROMPT, LONG))) for n in range(6)
    ]
    await eventually(
        lambda: metric(gateway.registry, "rondo_token_frames_total") > 30, "answers are under way"
    )
    await server.stop()
    began_s = time.monotonic()
    refused = await complete(gateway.generation("new", PROMPT, 4))
    assert isinstance(refused.error, CapacityError)
    assert refused.error.reason == "no_instances"
    assert refused.error.retry_after_s
    lost: list[Result] = await asyncio.gather(*running)
    assert time.monotonic() - began_s < 6, "4 questions of 0.1 s, and 0.7 s for another instance"
    expected = text_of(expected_tokens(PROMPT, LONG, ignore_eos=True))
    for result in lost:
        assert isinstance(result.error, InstanceLost)
        assert expected.startswith(result.text)
    assert metric(gateway.registry, "rondo_live_answers") == 0
    [coordinator] = stage.coordinators
    await server.start()
    await eventually(lambda: len(coordinator.policies) > 1, "the coordinator is back")
    await servable(gateway, 2)
    again = [gateway.generation(f"a{n}", PROMPT, 40) for n in range(10)]
    for result in await gather_all(*again):
        assert result.error is None
        assert result.text == text_of(expected_tokens(PROMPT, 40, ignore_eos=True))
    for worker in stage.workers:  # what nobody waits for was cancelled when the bus was back
        await eventually(
            lambda r=worker.registry: metric(r, "rondo_kv_blocks", state="used") == 0,  # type: ignore[misc]
            "all blocks are free",
        )
        assert not worker.deaths
    await eventually(lambda: not coordinator.policies[-1].placed, "nothing is left behind")


async def test_programs_can_be_stopped_while_the_bus_is_away(stage: Stage) -> None:
    gateway = await cluster(stage)
    answer = asyncio.create_task(complete(gateway.generation("r", PROMPT, LONG)))
    await eventually(
        lambda: metric(gateway.registry, "rondo_token_frames_total") > 5, "an answer is under way"
    )
    await server_of(stage).server.stop()
    async with asyncio.timeout(8):
        for worker in stage.workers:
            await worker.stop(0.3)
        await stage.coordinators[0].stop()
    assert isinstance((await answer).error, InstanceLost)
