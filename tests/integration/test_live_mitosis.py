"""Macro-instances split and merge while requests run, and no answer notices."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import msgspec

from rondo.bus import subjects
from rondo.bus.protocol import Incoming
from rondo.policy.scaling import ScalingTrigger
from rondo.wire import messages as m
from rondo_coordinator.scaling_journal import StepLine, WindowLine
from rondo_coordinator.settings import Scaling, ScalingSettings
from tests.support.collect import eventually
from tests.support.generations import Gateway, Result, complete, servable, start_gateway, text_of
from tests.support.services import MACRO, MODEL, Stage, expected_tokens, steps_of

SECOND = subjects.further_macro_id(MACRO, 2)
SMALL = ScalingSettings(macro_lower=2, macro_upper=3, instance_grace_s=0.3)
STEPS = steps_of(3.0, 4.0)
PROMPT = tuple(range(20, 50))
#: Between leaving one macro-instance and joining the other.
MOST_HAND_OVER_S = 0.1


@dataclass
class Watcher:
    """What the coordinators say of instances that come and go, and when it was heard."""

    events: list[tuple[float, m.Event]] = field(default_factory=list)

    def on_message(self, incoming: Incoming) -> None:
        if isinstance(incoming.message, m.Event):
            self.events.append((time.monotonic(), incoming.message))

    def hand_overs_s(self) -> dict[str, float]:
        """Time without a scheduler, of each instance that was handed over."""
        left: dict[str, float] = {}
        spans: dict[str, float] = {}
        for at_s, event in self.events:
            instance_id = str(event.fields["instance"])
            if str(event.fields.get("left", "")).startswith("handed over"):
                left[instance_id] = at_s
            elif "joined" in event.fields and instance_id in left:
                spans[instance_id] = at_s - left.pop(instance_id)
        return spans


async def watcher(stage: Stage) -> Watcher:
    seen = Watcher()
    await (await stage.harness.bus("seen")).subscribe(subjects.event("instance"), seen.on_message)
    return seen


def groups(gateway: Gateway) -> dict[str, tuple[str, ...]]:
    """Who takes requests where, as the gateway sees it."""
    return {macro.macro_id: macro.instance_ids for macro in gateway.directory.macros(MODEL)}


async def grown(stage: Stage, num_workers: int) -> Gateway:
    """Two coordinators, workers that came one after the other, and a gateway."""
    for name in ("c0", "c1"):
        await stage.coordinator(name, scaling=SMALL)
    gateway = await start_gateway(await stage.harness.bus("g0"))
    for index in range(num_workers):
        await stage.worker(f"w{index}", profile=STEPS)
        await servable(gateway, index + 1)
    return gateway


async def ask(gateway: Gateway, name: str, max_tokens: int) -> Result:
    return await complete(gateway.generation(name, PROMPT, max_tokens, ignore_eos=True))


def check(result: Result, max_tokens: int) -> None:
    assert result.error is None
    assert result.text == text_of(expected_tokens(PROMPT, max_tokens, ignore_eos=True))
    assert result.num_tokens == max_tokens


class Load:
    """Requests all the time, each of which must get its answer."""

    def __init__(self, gateway: Gateway, clients: int = 6, max_tokens: int = 60) -> None:
        self._gateway, self._max_tokens = gateway, max_tokens
        self._names = count()
        self._stop = False
        self.answered = 0
        self._tasks = [asyncio.create_task(self._client()) for _ in range(clients)]

    async def _client(self) -> None:
        while not self._stop:
            result = await ask(self._gateway, f"load-{next(self._names)}", self._max_tokens)
            check(result, self._max_tokens)
            self.answered += 1

    async def end(self) -> int:
        self._stop = True
        await asyncio.gather(*self._tasks)
        return self.answered


async def test_one_instance_too_many_splits_and_running_answers_go_on(stage: Stage) -> None:
    gateway = await grown(stage, 3)
    seen = await watcher(stage)
    assert groups(gateway) == {MACRO: ("w0", "w1", "w2")}
    load = Load(gateway)
    await eventually(lambda: load.answered > 6, "the load runs")
    await stage.worker("w3", profile=STEPS)
    split = {MACRO: ("w0", "w1"), SECOND: ("w2", "w3")}
    await eventually(lambda: {k: tuple(sorted(v)) for k, v in groups(gateway).items()} == split, "")
    before = load.answered
    await eventually(lambda: load.answered > before + 30, "the load runs on")
    await load.end()
    policies = [policy for one in stage.coordinators for policy in one.policies]
    assert len(policies) == 2
    for policy in policies:  # each macro-instance got its share
        assert policy.load.num_served > 0
    spans = seen.hand_overs_s()
    assert set(spans) == {"w2"}  # the fourth was assigned after the split was decided
    assert max(spans.values()) < MOST_HAND_OVER_S


async def test_two_that_fit_into_one_merge_and_the_empty_one_is_no_more(stage: Stage) -> None:
    gateway = await grown(stage, 4)
    await eventually(lambda: len(groups(gateway)) == 2, "there are two")
    load = Load(gateway)
    await eventually(lambda: load.answered > 6, "the load runs")
    await stage.workers[3].stop(drain_timeout_s=5.0)
    merged = {MACRO: ("w0", "w1", "w2")}
    await eventually(lambda: groups(gateway) == merged, "they have merged")
    before = load.answered
    await eventually(lambda: load.answered > before + 30, "the load runs on")
    await load.end()
    macros = await (await stage.harness.bus("look")).key_value(subjects.MACROS_BUCKET)

    async def gone() -> bool:
        return list(await macros.snapshot()) == [MACRO]

    for _ in range(100):
        if await gone():
            break
        await asyncio.sleep(0.02)
    assert await gone()


async def test_who_comes_back_in_time_keeps_its_place(stage: Stage) -> None:
    gateway = await grown(stage, 4)
    await eventually(lambda: len(groups(gateway)) == 2, "there are two")
    before = groups(gateway)
    await stage.workers[2].stop()
    await stage.worker("w2", profile=STEPS)
    await servable(gateway, 4)
    await asyncio.sleep(0.8)  # longer than the grace
    assert {k: set(v) for k, v in groups(gateway).items()} == {k: set(v) for k, v in before.items()}


async def test_a_new_owner_goes_on_with_the_same_groups(stage: Stage) -> None:
    gateway = await grown(stage, 4)
    await eventually(lambda: len(groups(gateway)) == 2, "there are two")
    before = groups(gateway)
    load = Load(gateway)
    await eventually(lambda: load.answered > 6, "the load runs")
    await stage.coordinators[0].crash()

    def owners() -> list[str]:
        return [macro.owner_id for macro in gateway.directory.macros(MODEL)]

    await eventually(lambda: owners() == ["c1", "c1"], "c1 owns both")
    await servable(gateway, 4)
    await load.end()
    assert {k: set(v) for k, v in groups(gateway).items()} == {k: set(v) for k, v in before.items()}


async def test_scaling_asks_for_instances_and_ends_idle_ones(stage: Stage, tmp_path: Path) -> None:
    settings = ScalingSettings(
        scaling=Scaling.ON,
        min_instances=2,
        max_instances=2,
        scaling_window_s=0.5,
        scaling_cooldown_s=0.0,
    )
    await stage.coordinator("c0", scaling=settings, journals=tmp_path / "journals")
    orders = await stage.watch(subjects.SCALING_BUCKET)
    gateway = await start_gateway(await stage.harness.bus("g0"))
    for name in ("w0", "w1", "w2"):
        await stage.worker(name, profile=STEPS)
    await servable(gateway, 3)

    def last() -> m.ScalingRecord:
        record = orders.items[-1].value
        assert isinstance(record, m.ScalingRecord)
        return record

    # Three are above the most: one drains, has nothing to do, and may be ended.
    await eventually(lambda: bool(orders.items) and len(last().stop) == 1, "one may go")
    assert last().num_wanted == 2
    assert len(groups(gateway)[MACRO]) == 2
    [ended] = last().stop
    await next(one for one in stage.workers if one.instance_id == ended).stop()
    await eventually(lambda: last().stop == (), "it is gone")
    assert last().num_wanted == 2
    await stage.coordinators[0].stop()
    replay(tmp_path / "journals" / f"{MACRO}-1-c0.scaling.jsonl", settings)


def replay(journal: Path, settings: ScalingSettings) -> None:
    """What was seen leads to the same decisions again, and each step has its reason."""
    decode = msgspec.json.Decoder(WindowLine | StepLine).decode
    lines = [decode(line) for line in journal.read_bytes().splitlines()]
    trigger = ScalingTrigger(settings.trigger())
    windows = [line for line in lines if isinstance(line, WindowLine)]
    assert windows
    for line in windows:
        assert trigger.observe(line.window) == line.decision
    steps = [line for line in lines if isinstance(line, StepLine)]
    assert any("drains" in line.what and "above the most" in line.reason for line in steps)
