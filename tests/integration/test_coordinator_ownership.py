"""Several coordinators on one bus: one owner at a time, whoever stops, crashes or is cut off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from rondo.bus import subjects
from rondo.bus.protocol import Bus, KeyUpdate
from rondo.errors import NoResponder, RequestTimeout
from rondo.wire import messages as m
from tests.support.boss import PROMPT, boss_of
from tests.support.collect import Collector, eventually
from tests.support.faults import behind_relay
from tests.support.services import (
    MACRO,
    Stage,
    expected_tokens,
    metric,
    steps_of,
    submit,
)

SLOW = steps_of(5.0, 5.0)
LEASE_S = 0.9


def records(macros: Collector[KeyUpdate]) -> list[m.MacroRecord]:
    return [update.value for update in macros.items if isinstance(update.value, m.MacroRecord)]


async def owner_is(macros: Collector[KeyUpdate], owner_id: str, *instance_ids: str) -> None:
    def owned(_: list[KeyUpdate]) -> bool:
        last = records(macros)[-1:]
        return any(r.owner_id == owner_id and r.instance_ids == instance_ids for r in last)

    await macros.until(owned)


def terms(macros: Collector[KeyUpdate]) -> list[tuple[int, str]]:
    """Who owned, in order: epochs must only grow, and an epoch has one owner."""
    held = list(dict.fromkeys((r.epoch, r.owner_id) for r in records(macros) if r.owner_id))
    epochs = [epoch for epoch, _ in held]
    assert epochs == sorted(set(epochs))
    return held


@asynccontextmanager
async def never_two_owners(stage: Stage) -> AsyncIterator[set[str]]:
    """Asks all the time who owns; there is never more than one answer."""
    bus = await stage.harness.bus("asker")
    seen: set[str] = set()

    async def ask() -> None:
        while True:
            replies = await bus.request_many(subjects.STATUS, m.StatusRequest(), 0.02)
            owners = [r.owner_id for r in replies if isinstance(r, m.StatusReply)]
            assert len(owners) <= 1
            seen.update(owners)

    asking = asyncio.create_task(ask())
    try:
        yield seen
    finally:
        asking.cancel()
        [result] = await asyncio.gather(asking, return_exceptions=True)
        assert isinstance(result, asyncio.CancelledError), result


async def admit(bus: Bus, request_id: str) -> m.Admitted:
    """Asks until an owner answers, as a gateway does."""
    message = submit(request_id, prompt_tokens=len(PROMPT), max_tokens=200)
    async with asyncio.timeout(5):
        while True:
            try:
                answer = await bus.request(subjects.submit(MACRO), message, 1.0)
            except (NoResponder, RequestTimeout):
                await asyncio.sleep(0.01)
                continue
            assert isinstance(answer, m.Admitted)
            return answer


async def test_a_stopped_owner_hands_over_at_once(stage: Stage) -> None:
    macros = await stage.watch(subjects.MACROS_BUCKET)
    await stage.worker()
    async with never_two_owners(stage) as seen:
        first = await stage.coordinator("c0", lease_s=LEASE_S)
        await owner_is(macros, "c0", "w0")
        await stage.coordinator("c1", lease_s=LEASE_S)
        bus = await stage.harness.bus("g0")
        before = await admit(bus, "before")
        await eventually(lambda: seen == {"c0"}, "the first owner was seen")
        started_s = time.monotonic()
        await first.stop()
        await owner_is(macros, "c1", "w0")
        assert time.monotonic() - started_s < 0.5
        after = await admit(bus, "after")
        assert (before.instance_id, after.instance_id) == ("w0", "w0")
        assert (before.epoch, after.epoch) == (1, 2)
        await eventually(lambda: seen == {"c0", "c1"}, "both were seen as owners")
    assert terms(macros) == [(1, "c0"), (2, "c1")]


async def test_a_stopping_owner_answers_nobody_after_its_release(
    stage: Stage,
) -> None:
    macros = await stage.watch(subjects.MACROS_BUCKET)
    await stage.worker()
    first = await stage.coordinator("c0", lease_s=LEASE_S)
    await owner_is(macros, "c0", "w0")
    await first.service.stop()  # its connection is still open
    bus = await stage.harness.bus("g0")
    with pytest.raises(NoResponder):
        await bus.request(subjects.submit(MACRO), submit("r"), 0.5)
    assert await bus.request_many(subjects.STATUS, m.StatusRequest(), 0.1) == []
    await first.stop()


async def test_a_crashed_owner_is_replaced_after_its_lease(stage: Stage) -> None:
    macros = await stage.watch(subjects.MACROS_BUCKET)
    await stage.worker()
    owner = await stage.coordinator("c0", lease_s=LEASE_S)
    await owner_is(macros, "c0", "w0")
    async with never_two_owners(stage):
        for number in range(1, 3):
            following = await stage.coordinator(f"c{number}", lease_s=LEASE_S)
            await owner.crash()
            crashed_s = time.monotonic()
            await owner_is(macros, f"c{number}", "w0")
            took_s = time.monotonic() - crashed_s
            # From its last renewal on.
            assert LEASE_S * 0.7 < took_s < LEASE_S * 1.6
            owner = following
    assert terms(macros) == [(1, "c0"), (2, "c1"), (3, "c2")]


async def test_many_competitors_and_one_winner(stage: Stage) -> None:
    macros = await stage.watch(subjects.MACROS_BUCKET)
    async with never_two_owners(stage):
        await asyncio.gather(*(stage.coordinator(f"c{i}", lease_s=LEASE_S) for i in range(5)))
        await stage.worker()
        await macros.until(lambda _: len(records(macros)) > 3)  # renewed by the same one
        [(epoch, winner)] = terms(macros)
        assert epoch == 1
        for coordinator in stage.coordinators:
            if coordinator.coordinator_id == winner:
                await coordinator.stop()
        await macros.until(lambda _: len(terms(macros)) == 2)


async def test_a_deposed_owner_stops_answering(stage: Stage) -> None:
    macros = await stage.watch(subjects.MACROS_BUCKET)
    boss = await boss_of(stage)
    worker = await stage.worker()
    bus = await stage.harness.bus("g0")
    async with behind_relay(stage.harness, "c0") as (its_bus, relay):
        deposed = await stage.coordinator("c0", bus=its_bus, lease_s=LEASE_S)
        await owner_is(macros, "c0", "w0")
        await stage.coordinator("c1", lease_s=LEASE_S)
        assert (await admit(bus, "before")).epoch == 1
        relay.hold()
        await owner_is(macros, "c1", "w0")
        # Submitted while both would get it, but one of them is cut off.
        assert (await admit(bus, "meanwhile")).epoch == 2
        async with never_two_owners(stage) as seen:
            relay.release()
            for name in ("a", "b", "c"):
                assert (await admit(bus, name)).epoch == 2
            await its_bus.flush()
            replies = await bus.request_many(subjects.STATUS, m.StatusRequest(), 0.2)
            assert [r.owner_id for r in replies if isinstance(r, m.StatusReply)] == ["c1"]
        assert seen == {"c1"}
        assert metric(deposed.registry, "rondo_admitted_requests_total") == 1
        await deposed.stop()
    assert terms(macros) == [(1, "c0"), (2, "c1")]
    boss.epoch = 2
    await boss.full_report()
    assert metric(worker.registry, "rondo_stale_commands_total") == 0


async def test_a_new_owner_rebuilds_what_runs(stage: Stage) -> None:
    macros = await stage.watch(subjects.MACROS_BUCKET)
    boss = await boss_of(stage)
    await stage.worker(profile=SLOW, max_running=3)
    owner = await stage.coordinator("c0", lease_s=LEASE_S)
    await owner_is(macros, "c0", "w0")
    following = await stage.coordinator("c1", lease_s=LEASE_S)
    bus = await stage.harness.bus("g0")
    for name in ("a", "b"):
        await admit(bus, name)
        await boss.prompt(name, 200)
    await boss.some("b", 3)
    await boss.prompt("waits", 4)  # its admission got lost, with all that c0 knew
    await owner.stop()
    await owner_is(macros, "c1", "w0")
    [policy] = following.policies
    view = policy.views["w0"]
    assert {"a", "b"} <= set(view.running) | set(view.fresh)
    assert view.num_requests == 3
    policy.check_invariants()
    await boss.end("waits")  # the new owner grants it a turn
    for name in ("a", "b"):
        await boss.end(name)
        assert boss.tokens(name) == expected_tokens(PROMPT, 200, ignore_eos=True)
    await boss.reported(lambda all_: sum(len(one.finished) for one in all_) == 3)
    boss.epoch = 2
    await boss.full_report()
    assert (await admit(bus, "c")).epoch == 2
    assert [*view.outstanding] == ["c"]
    turns = [report.turn for report in boss.reports.of(m.TurnBegan)]
    assert turns == sorted(turns)
