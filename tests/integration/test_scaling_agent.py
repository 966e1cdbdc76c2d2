"""Orders to scale are followed: however often, in whatever order, and when a start fails."""

from __future__ import annotations

import pytest

from rondo.bus import subjects
from rondo.bus.protocol import KeyValue
from rondo.errors import RondoError
from rondo.scaling import agent as agents
from rondo.scaling.agent import ScalingAgent
from rondo.wire import messages as m
from tests.support.collect import eventually
from tests.support.services import MACRO, MODEL, Stage


class Processes:
    """A driver whose instances are names."""

    def __init__(self, num: int) -> None:
        self.ids = [f"w{index}" for index in range(num)]
        self.num_started = num
        self.failures = 0

    @property
    def instance_ids(self) -> tuple[str, ...]:
        return tuple(self.ids)

    async def start(self) -> str:
        if self.failures:
            self.failures -= 1
            raise RondoError("no room")
        self.ids.append(f"w{self.num_started}")
        self.num_started += 1
        return self.ids[-1]

    async def stop(self, instance_id: str) -> None:
        self.ids.remove(instance_id)


def order(
    wanted: int, *stop: str, draining: int = 0, epoch: int = 1, model: str = MODEL
) -> m.ScalingRecord:
    return m.ScalingRecord(
        model=model, epoch=epoch, num_wanted=wanted, num_draining=draining, stop=stop, reason="why"
    )


async def following(
    stage: Stage, driver: Processes, most: int = 8
) -> tuple[KeyValue, ScalingAgent]:
    bus = await stage.harness.bus("agent")
    agent = ScalingAgent(bus, MODEL, driver, most)
    await agent.start()
    return await bus.key_value(subjects.SCALING_BUCKET), agent


async def test_there_are_as_many_as_wanted_and_the_idle_ones_end(stage: Stage) -> None:
    driver = Processes(2)
    bucket, agent = await following(stage, driver)
    await bucket.put(MACRO, order(4))
    await eventually(lambda: driver.ids == ["w0", "w1", "w2", "w3"], "four run")
    await bucket.put(MACRO, order(3, draining=1))  # one finishes what it has
    await bucket.put(MACRO, order(3, "w1"))
    await eventually(lambda: driver.ids == ["w0", "w2", "w3"], "the idle one has ended")
    await bucket.put(MACRO, order(3, "w1"))
    await bucket.put(MACRO, order(4))
    await eventually(lambda: len(driver.ids) == 4, "four run again")
    await agent.stop()
    assert driver.num_started == 5


async def test_who_was_deposed_orders_nothing_and_the_bound_holds(stage: Stage) -> None:
    driver = Processes(1)
    bucket, agent = await following(stage, driver, most=3)
    await bucket.put(MACRO, order(100, epoch=2))
    await eventually(lambda: len(driver.ids) == 3, "the bound is reached")
    await bucket.put(MACRO, order(0, "w0", "w1", epoch=1))
    await bucket.put("other", order(0, "w0", "w1", epoch=9, model="other"))
    await bucket.put(MACRO, order(3, "w2", epoch=2))
    await eventually(lambda: "w2" not in driver.ids, "the order after that is followed")
    await agent.stop()
    assert {"w0", "w1"} <= set(driver.ids)


async def test_a_start_that_fails_is_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "RETRY_S", 0.01)
    driver = Processes(1)
    driver.failures = 3
    bucket, agent = await following(stage, driver)
    await bucket.put(MACRO, order(2))
    await eventually(lambda: len(driver.ids) == 2, "it runs in the end")
    await agent.stop()
