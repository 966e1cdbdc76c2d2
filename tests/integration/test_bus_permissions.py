"""What a user of the bus is shown unable to do, on a real nats-server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import nats
import pytest
from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from rondo.bus import subjects
from rondo.bus.nats import NatsBus
from rondo.bus.permissions import COORDINATOR, GATEWAY, OPERATOR, WORKER, inbox_prefix
from rondo.bus.protocol import KeyUpdate
from rondo.errors import BusUnavailable
from rondo.wire import messages as m
from rondo.wire.codec import encode
from tests.support.collect import Collector, eventually
from tests.support.guarded import guarded_stage
from tests.support.nats import ServerUnderTest
from tests.support.services import MACRO, MODEL, Stage, Tap, steps_of

OWN = "worker.w-1"


@dataclass
class Stranger:
    """A connection that uses a service's credentials for whatever it likes."""

    client: Client
    refused: list[str] = field(default_factory=list)

    async def tries_to_publish(self, subject: str, data: bytes = b"", reply: str = "") -> bool:
        """Whether the server took it."""
        before = len(self.refused)
        await self.client.publish(subject, data, reply)
        await settled(self.client)
        return len(self.refused) == before

    async def tries_to_subscribe(self, subject: str) -> bool:
        """Whether the server took it."""
        before = len(self.refused)
        await self.client.subscribe(subject, cb=_ignore)
        await settled(self.client)
        return len(self.refused) == before


async def settled(client: Client) -> None:
    """Returns when the server has dealt with all that was sent; nats-py's flush may overtake it."""
    with pytest.raises(errors.NoRespondersError):
        await client.request(client.new_inbox(), b"", timeout=5)


async def _ignore(_: Msg) -> None:
    pass


@contextlib.asynccontextmanager
async def stranger(server: ServerUnderTest, user: str) -> AsyncIterator[Stranger]:
    found: list[str] = []

    async def on_error(error: Exception) -> None:
        found.append(str(error))

    url, prefix = server.url_of(user), inbox_prefix(user)
    client = await nats.connect(url, inbox_prefix=prefix, error_cb=on_error)
    made = Stranger(client, found)
    try:
        yield made
    finally:
        await client.close()
    assert all("permissions violation" in text.lower() for text in found)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerUnderTest]:
    server = ServerUnderTest(tmp_path / "nats")
    for user in (GATEWAY, COORDINATOR, WORKER, OPERATOR, OWN):
        server.url_of(user)
    await server.start()
    yield server
    await server.stop()


NEVER = {
    OWN: [
        subjects.report("w-2"), subjects.run("w-2"), subjects.run("w-1"), subjects.command("w-2"),
        subjects.command("w-1"), subjects.submit("m"), subjects.event("admitted"), subjects.STATUS,
        f"$KV.{subjects.INSTANCES_BUCKET}.w-2", f"$KV.{subjects.MACROS_BUCKET}.m",
        f"$JS.API.CONSUMER.CREATE.KV_{subjects.INSTANCES_BUCKET}",
        f"$JS.API.STREAM.DELETE.KV_{subjects.INSTANCES_BUCKET}",
        "$JS.API.STREAM.CREATE.mine", f"{inbox_prefix(GATEWAY)}.x",
    ],
    WORKER: [subjects.command("w-1"), subjects.submit("m"), f"$KV.{subjects.MACROS_BUCKET}.m"],
    GATEWAY: [
        subjects.command("w-1"), subjects.report("w-1"), subjects.tokens("g-1"),
        subjects.fault("w-1"), subjects.event("admitted"), f"{inbox_prefix(GATEWAY + '2')}.x",
        f"$KV.{subjects.INSTANCES_BUCKET}.w-1", f"$KV.{subjects.MACROS_BUCKET}.m",
        f"$KV.{subjects.SCALING_BUCKET}.m", f"$JS.API.STREAM.UPDATE.KV_{subjects.MACROS_BUCKET}",
    ],
    COORDINATOR: [
        subjects.report("w-1"), subjects.tokens("g-1"), subjects.run("w-1"), subjects.submit("m"),
        f"$KV.{subjects.RESPONSES_BUCKET}.p1", f"{inbox_prefix(OWN)}.x",
    ],
    OPERATOR: [
        subjects.command("w-1"), subjects.submit("m"), subjects.report("w-1"),
        f"$KV.{subjects.MACROS_BUCKET}.m",
    ],
}  # fmt: skip

NEVER_HEARD = {
    OWN: [
        subjects.run("w-2"), subjects.command("w-2"), subjects.all_reports(), subjects.tokens("g"),
        subjects.submit("m"), subjects.all_events(), f"$KV.{subjects.RESPONSES_BUCKET}.*",
        f"{inbox_prefix(GATEWAY)}.>", "_INBOX.>", ">",
    ],
    GATEWAY: [subjects.any_run(), subjects.any_command(), subjects.submit("m"), "_INBOX.>", ">"],
    COORDINATOR: [subjects.all_tokens(), subjects.any_run(), f"{inbox_prefix(GATEWAY)}.>", ">"],
    OPERATOR: ["_INBOX.>", "$KV.>", ">"],
}  # fmt: skip


@pytest.mark.parametrize("user", NEVER)
async def test_what_a_user_may_not_say_nobody_hears(server: ServerUnderTest, user: str) -> None:
    heard = Collector[str]()

    async def hear(msg: Msg) -> None:
        heard(msg.subject)

    listener = await nats.connect(server.url_of(OPERATOR), inbox_prefix=inbox_prefix(OPERATOR))
    await listener.subscribe(f"{subjects.PREFIX}.>", cb=hear)
    await settled(listener)
    async with stranger(server, user) as trier:
        for subject in NEVER[user]:
            assert not await trier.tries_to_publish(subject), subject
    await settled(listener)
    await listener.close()
    assert heard.items == []


@pytest.mark.parametrize("user", NEVER_HEARD)
async def test_what_a_user_may_not_hear_it_does_not(server: ServerUnderTest, user: str) -> None:
    async with stranger(server, user) as trier:
        for subject in NEVER_HEARD[user]:
            assert not await trier.tries_to_subscribe(subject), subject


async def test_its_own_part_a_worker_may_do(server: ServerUnderTest) -> None:
    async with stranger(server, OWN) as worker:
        assert await worker.tries_to_publish(subjects.report("w-1"))
        assert await worker.tries_to_publish(subjects.tokens("g-1"))
        assert await worker.tries_to_subscribe(subjects.run("w-1"))
        assert await worker.tries_to_subscribe(subjects.command("w-1"))


async def test_without_a_password_nobody_connects(server: ServerUnderTest) -> None:
    for url in (server.url, server.url_of(OWN).replace("worker.w-1:", "worker.w-2:")):
        bus = NatsBus(url, name="stranger")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await bus.connect()
        await bus.close()
    for path in (server.log_file.parent, server.log_file.parent / "nats-server.conf"):
        assert not path.stat().st_mode & 0o077, path
    assert "pass" not in server.url


async def test_a_user_can_be_added_while_the_server_runs(server: ServerUnderTest) -> None:
    before = NatsBus(server.url_of(OWN), name="w-1")
    await before.connect()
    added = NatsBus(server.url_of("worker.w-9"), name="w-9")
    async with asyncio.timeout(5):
        await added.connect()
    await server.restart()
    for bus in (before, added):
        await eventually(lambda bus=bus: bus.connected, "it is back")  # type: ignore[misc]
        await bus.close()
    assert before.stats.reconnects == 1  # by the restart, not by the new user


async def test_a_store_is_no_way_round(server: ServerUnderTest) -> None:
    """JetStream delivers what is watched to any subject; a worker does not listen to it."""
    victim = NatsBus(server.url_of(OWN), name="w-1")
    await victim.connect()
    tap = Tap()
    await victim.subscribe(subjects.command("w-1"), tap.on_message)
    bus = NatsBus(server.url_of(GATEWAY), name="g-1")
    await bus.connect()
    await bus.key_value(subjects.RESPONSES_BUCKET)
    order = m.CancelRun(epoch=9, macro_id=MACRO, request_id="r")
    async with stranger(server, GATEWAY) as gateway:
        context = gateway.client.jetstream()
        await context.publish(f"$KV.{subjects.RESPONSES_BUCKET}.p1", encode(order))
        config = ConsumerConfig(
            deliver_subject=subjects.command("w-1"),
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.NONE,
        )
        await context.add_consumer(f"KV_{subjects.RESPONSES_BUCKET}", config)
        await eventually(lambda: victim.stats.undecodable == 1, "it came, and was dropped")
    assert tap.items == []
    coordinator = NatsBus(server.url_of(COORDINATOR), name="c-1")
    await coordinator.connect()
    await coordinator.publish(subjects.command("w-1"), order)
    assert await tap.first(m.CancelRun) == [order]
    for one in (victim, bus, coordinator):
        await one.close()


async def test_an_instance_reports_for_itself_alone(tmp_path: Path) -> None:
    async with guarded_stage(tmp_path) as stage:
        reports = await stage.tap(subjects.report("w0"))
        beats = await stage.tap(subjects.beat("w0"))
        await stage.coordinator()
        await stage.worker("w0", profile=steps_of(3.0, 5.0))
        await _seen(stage, "w0")
        orders = await stage.tap(subjects.command("w0"))
        [report, *_] = await reports.first(m.StepReport)
        # As if a thousand reports were lost: who believes it asks for a full one.
        false = m.StepReport(
            instance_id="w0",
            incarnation=report.incarnation,
            macro_id=report.macro_id,
            epoch=report.epoch,
            seq=report.seq + 1000,
            progress=report.progress,
        )
        num_asked = len(orders.of(m.SendFullReport))
        w1 = await stage.harness.bus("w1")
        await w1.publish(subjects.report("w1"), false)
        await w1.flush()
        num_before = len(beats.items)
        await beats.until(lambda items: len(items) > num_before + 2)
        assert len(orders.of(m.SendFullReport)) == num_asked
        w0 = await stage.harness.bus("w0")
        await w0.publish(subjects.report("w0"), false)
        await orders.first(m.SendFullReport, num_asked + 1)


async def _seen(stage: Stage, instance_id: str) -> None:
    macros: Collector[KeyUpdate] = Collector()
    bus = await stage.harness.bus("observer")
    await (await bus.key_value(subjects.MACROS_BUCKET)).watch(macros)
    await macros.until(
        lambda items: any(
            isinstance(item.value, m.MacroRecord) and instance_id in item.value.instance_ids
            for item in items
        )
    )
    await bus.close()


async def test_who_scales_hears_what_the_coordinator_orders(server: ServerUnderTest) -> None:
    coordinator = NatsBus(server.url_of(COORDINATOR), name="c-1")
    operator = NatsBus(server.url_of(OPERATOR), name="rondo-up")
    for bus in (coordinator, operator):
        await bus.connect()
    heard: Collector[KeyUpdate] = Collector()
    await (await operator.key_value(subjects.SCALING_BUCKET)).watch(heard)
    order = m.ScalingRecord(
        model=MODEL, epoch=1, num_wanted=2, num_draining=0, stop=(), reason="because"
    )
    await (await coordinator.key_value(subjects.SCALING_BUCKET)).put(MACRO, order)
    await heard.until(lambda items: [item.value for item in items] == [order])
    with pytest.raises(BusUnavailable):
        await (await operator.key_value(subjects.SCALING_BUCKET)).put(MACRO, order)
    for bus in (coordinator, operator):
        await bus.close()
