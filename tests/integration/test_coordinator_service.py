"""A live coordinator with live workers on a real bus: membership, admission, what it tells."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from rondo.bus import subjects
from rondo.bus.protocol import Bus, KeyUpdate
from rondo.errors import RequestTimeout
from rondo.types import Phase
from rondo.wire import messages as m
from tests.support.boss import Boss, boss_of
from tests.support.collect import Collector
from tests.support.faults import behind_relay, lossy
from tests.support.services import (
    MACRO,
    MODEL,
    SPEC,
    Stage,
    Tap,
    metric,
    stage_on,
    steps_of,
    submit,
)

SLOW = steps_of(5.0, 5.0)


async def ask(bus: Bus, message: m.Message, timeout_s: float = 5.0) -> m.Message:
    return await bus.request(subjects.submit(MACRO), message, timeout_s)


async def admit(bus: Bus, message: m.Submit) -> m.Admitted:
    answer = await ask(bus, message)
    assert isinstance(answer, m.Admitted)
    return answer


async def members_are(macros: Collector[KeyUpdate], *instance_ids: str) -> m.MacroRecord:
    """The owner's record, once it names exactly these instances."""

    def named(items: list[KeyUpdate]) -> bool:
        record = items[-1].value if items else None
        return isinstance(record, m.MacroRecord) and record.instance_ids == instance_ids

    record = (await macros.until(named))[-1].value
    assert isinstance(record, m.MacroRecord)
    return record


async def status(bus: Bus) -> m.StatusReply:
    reply = await bus.request(subjects.STATUS, m.StatusRequest(), 5.0)
    assert isinstance(reply, m.StatusReply)
    return reply


def events_of(tap: Tap, kind: str) -> list[m.Fields]:
    return [event.fields for event in tap.of(m.Event) if event.kind == kind]


async def serving(stage: Stage, max_wait_s: float = 30.0) -> tuple[Bus, Boss, Collector[KeyUpdate]]:
    """A coordinator and the worker w0, which has joined."""
    boss = await boss_of(stage)
    macros = await stage.watch(subjects.MACROS_BUCKET)
    await stage.coordinator(max_wait_s=max_wait_s)
    await stage.worker(profile=SLOW, max_running=2)
    await members_are(macros, "w0")
    return await stage.harness.bus("g0"), boss, macros


async def test_an_instance_joins_with_its_first_full_report(stage: Stage) -> None:
    macros = await stage.watch(subjects.MACROS_BUCKET)
    events = await stage.tap(subjects.event("instance"))
    await stage.coordinator()
    silent = await stage.harness.bus("w1")
    record = m.InstanceRecord(
        instance_id="w1",
        incarnation="a",
        model=MODEL,
        engine="none",
        max_model_len=64,
        block_size=16,
        num_blocks=4,
        max_running=1,
        max_prefill_tokens=64,
        profile=SLOW,
    )
    await (await silent.key_value(subjects.INSTANCES_BUCKET)).put("w1", record)
    worker = await stage.worker()
    joined = await members_are(macros, "w0")  # w1 has said nothing yet
    assert (joined.owner_id, joined.model, joined.max_model_len) == (
        "c0",
        MODEL,
        SPEC.max_model_len,
    )
    assert {"instance": "w0", "joined": MACRO} in [event.fields for event in events.of(m.Event)]
    await worker.stop()
    assert (await members_are(macros)).max_model_len == 0
    assert {"instance": "w0", "left": "draining"} in events_of(events, "instance")


async def test_admission_tells_where_and_what_to_expect(stage: Stage) -> None:
    bus, boss, macros = await serving(stage)
    tap = await stage.tap(subjects.command("w0"))
    events = await stage.tap(subjects.all_events())
    admitted = await admit(bus, submit("r"))
    assert admitted.instance_id == "w0"
    assert admitted.epoch == (await members_are(macros, "w0")).epoch
    assert 0.005 <= admitted.predicted_ttft_s < 1.0
    assert 0.005 <= admitted.predicted_tpot_s < 1.0
    assert admitted.reasons
    [token] = await tap.first(m.TurnToken)
    assert (token.epoch, token.turn) == (admitted.epoch, admitted.turn)
    assert token.request_ids == ("r",)
    assert await admit(bus, submit("r")) == admitted  # the first answer might be lost
    await boss.prompt("r")
    await boss.end("r")
    await events.until(lambda _: bool(events_of(events, "turn_ended")))
    assert [fields["turn"] for fields in events_of(events, "turn_began")] == [admitted.turn]
    told = events_of(events, "admitted")[0]
    assert (told["request"], told["instance"]) == ("r", "w0")
    assert told["reasons"] == list(admitted.reasons)


async def test_a_pending_request_is_answered_once_there_is_room(stage: Stage) -> None:
    bus, boss, _ = await serving(stage)
    for name in ("a", "b"):
        await admit(bus, submit(name))
        await boss.prompt(name, 500)
    with pytest.raises(RequestTimeout):
        await ask(bus, submit("c"), 0.2)
    waiting = asyncio.create_task(admit(bus, submit("c")))  # the same, asked again
    await boss.some("a", 3)
    assert (await status(bus)).num_pending == 1
    assert not waiting.done()
    await bus.publish(subjects.submit(MACRO), m.Cancel(request_id="a"))
    assert (await waiting).request_id == "c"


async def test_cancel_of_an_admitted_and_of_a_pending_request(stage: Stage) -> None:
    bus, boss, _ = await serving(stage)
    commands = await stage.tap(subjects.command("w0"))
    for name in ("a", "b"):
        await admit(bus, submit(name))
        await boss.prompt(name, 500)
    waiting = asyncio.create_task(ask(bus, submit("c"), 1.5))
    await boss.some("b", 3)
    assert (await status(bus)).num_pending == 1
    for name in ("c", "b"):  # c first, or it would take b's place
        await bus.publish(subjects.submit(MACRO), m.Cancel(request_id=name))
    [cancel] = await commands.first(m.CancelRun)
    assert cancel.request_id == "b"
    assert (await status(bus)).num_pending == 0
    with pytest.raises(RequestTimeout):
        await waiting
    boss.epoch = cancel.epoch
    members = (await boss.reported(lambda all_: all_[-1].num_running == 1))[-1]
    assert members.kv.used_blocks > 0
    assert not any(delta.finish for delta in boss.deltas("b"))


async def test_without_instances_a_request_waits_and_is_refused(stage: Stage) -> None:
    bus, _, macros = await serving(stage, max_wait_s=0.3)
    await stage.workers[0].stop()
    await members_are(macros)
    started_s = time.monotonic()
    answer = await ask(bus, submit("r"))
    assert isinstance(answer, m.Rejected)
    assert 0.25 < time.monotonic() - started_s < 2
    assert answer.reason == "no_instances"
    assert answer.retry_after_s
    assert metric(
        stage.coordinators[0].registry, "rondo_rejected_requests_total", reason="no_instances"
    )


async def test_what_no_instance_can_hold_is_refused_at_once(stage: Stage) -> None:
    bus, _, _ = await serving(stage)
    events = await stage.tap(subjects.event("rejected"))
    answer = await ask(bus, submit("r", prompt_tokens=SPEC.max_model_len, max_tokens=1))
    assert isinstance(answer, m.Rejected)
    assert (answer.reason, answer.retry_after_s) == ("too_long", None)
    [event] = await events.first(m.Event)
    assert event.fields == {"request": "r", "reason": "too_long", "detail": answer.detail}


async def test_a_silent_instance_is_dropped_and_told_to_rejoin(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rondo_worker.service.HEARTBEAT_S", 0.1)
    monkeypatch.setattr("rondo_coordinator.service.CHECK_S", 0.05)
    macros = await stage.watch(subjects.MACROS_BUCKET)
    instances = await stage.watch(subjects.INSTANCES_BUCKET)
    commands = await stage.tap(subjects.command("w0"))
    await stage.coordinator(instance_timeout_s=0.8)
    async with behind_relay(stage.harness, "w0") as (bus, relay):
        worker = await stage.worker(bus=bus)
        await members_are(macros, "w0")
        relay.hold()
        await members_are(macros)
        await instances.until(lambda items: items[-1].value is None)
        relay.release()
        await commands.first(m.Rejoin)
        await members_are(macros, "w0")
        records = [u.value for u in instances.items if isinstance(u.value, m.InstanceRecord)]
        assert records[0].incarnation != records[-1].incarnation
        # What it said while nobody heard it arrives at once, and needs one answer only.
        assert len(commands.of(m.Rejoin)) == 1
        await worker.stop()


async def test_a_lost_report_is_made_good(tmp_path: Path) -> None:
    async with stage_on("memory", tmp_path) as stage:
        broker = lossy(stage.harness)
        bus, boss, _ = await serving(stage)
        commands = await stage.tap(subjects.command("w0"))
        await admit(bus, submit("r", max_tokens=30))
        broker.lose = lambda _, message: (
            isinstance(message, m.StepReport)
            and bool(message.progress.prefilled)
            and not broker.lost
        )
        await boss.prompt("r", 30)
        [ask_all] = await commands.first(m.SendFullReport)
        assert ask_all.epoch == 1
        await boss.reported(lambda all_: any(one.finished for one in all_))
        [policy] = stage.coordinators[0].policies
        assert len(broker.lost) == 1
        assert len(commands.of(m.SendFullReport)) == 1
        assert metric(stage.coordinators[0].registry, "rondo_report_gaps_total") == 1
        await boss.full_report()
        assert not policy.placed
        assert policy.views["w0"].num_requests == 0
        policy.check_invariants()


async def test_status_tells_what_every_instance_does(stage: Stage) -> None:
    bus, boss, _ = await serving(stage)
    await stage.worker("w1")
    admitted = await admit(bus, submit("r", max_tokens=500))
    assert admitted.instance_id == "w0"
    await boss.prompt("r", 500)
    await boss.some("r", 3)
    reply = await status(bus)
    while len(reply.instances) < 2 or reply.instances[0].phase is not Phase.DECODE:
        reply = await status(bus)
    assert (reply.macro_id, reply.model, reply.owner_id) == (MACRO, MODEL, "c0")
    assert reply.epoch == admitted.epoch
    first, second = reply.instances
    assert (first.instance_id, second.instance_id) == ("w0", "w1")
    assert (first.num_running, first.turn, first.engine) == (1, admitted.turn, "emulated")
    assert first.kv
    assert first.kv.used_blocks > 0
    assert second.num_running == 0
    assert 0 <= first.report_age_s < 1.5


async def test_predictions_are_compared_with_what_came_of_them(stage: Stage) -> None:
    bus, boss, _ = await serving(stage)
    registry = stage.coordinators[0].registry
    name = "rondo_prediction_error_seconds"
    for request_id in ("a", "b"):
        await admit(bus, submit(request_id, max_tokens=20))
        await boss.prompt(request_id, 20)
        await boss.end(request_id)
    await boss.reported(lambda all_: sum(len(one.finished) for one in all_) == 2)
    await status(bus)  # the coordinator has them, too
    for latency in ("ttft", "tpot"):
        assert metric(registry, f"{name}_count", latency=latency) == 2
    assert abs(metric(registry, f"{name}_sum", latency="tpot")) < 0.02
    steps = {"instance_id": "w0", "kind": "decode"}
    assert 0 < metric(registry, "rondo_step_prediction_error_ratio", **steps) < 0.5
    assert 0.5 < metric(registry, "rondo_step_prediction_factor", **steps) < 2.0
