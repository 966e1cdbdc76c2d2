"""The stream that feeds browsers: everything, then increments; bounded for slow readers, too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from rondo.bus import subjects
from rondo.bus.memory import MemoryBroker, MemoryBus
from rondo.bus.protocol import Bus
from rondo.wire.messages import Event
from rondo_gateway.console import hub as hub_module
from rondo_gateway.console import lifetime
from rondo_gateway.console.collector import Collector
from rondo_gateway.console.hub import Hub
from tests.support.collect import eventually
from tests.support.console import SpokenCluster, serving, talker
from tests.support.services import FAST, MACRO, MODEL, Stage, Tap, stage_on

Frame = tuple[str, int, dict[str, Any]]


@pytest.fixture
async def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
async def bus(broker: MemoryBroker) -> AsyncIterator[Bus]:
    made = MemoryBus(broker, name="test")
    await made.connect()
    yield made
    await made.close()


def parse(frame: bytes) -> Frame:
    head, data = frame.decode().strip().split("\n", 1)
    name, _, number = head.removeprefix("id: ").partition("-")
    return name, int(number), json.loads(data.removeprefix("data: "))


async def take(hub: Hub, last_id: str, count: int) -> list[Frame]:
    frames = hub.frames(last_id)
    try:
        async with asyncio.timeout(20):
            return [parse(await anext(frames)) for _ in range(count)]
    finally:
        await frames.aclose()


@pytest.fixture
async def hub(bus: Bus) -> AsyncIterator[Hub]:
    """One that follows four lanes whose turns roll."""
    cluster = SpokenCluster(bus, 4)
    await cluster.start()
    collector = Collector(bus, "g0")
    await collector.start()
    made = Hub(collector)
    made.start()
    yield made
    await made.stop()
    await collector.stop()
    await cluster.stop()


async def test_first_everything_then_what_changes(hub: Hub) -> None:
    frames = await take(hub, "", 4)
    assert [step.get("fresh", False) for _, _, step in frames] == [True, False, False, False]
    numbers = [number for _, number, _ in frames]
    assert numbers == list(range(numbers[0], numbers[0] + 4))
    assert len(frames[0][2]["lanes"]) == 4


async def test_a_reader_goes_on_where_it_was(hub: Hub) -> None:
    name, number, _ = (await take(hub, "", 2))[-1]
    await asyncio.sleep(3 * hub_module.TICK_S)
    again = await take(hub, f"{name}-{number}", 2)
    assert [(n, step.get("fresh", False)) for _, n, step in again] == [
        (number + 1, False),
        (number + 2, False),
    ]


@pytest.mark.parametrize("last_id", ["", "other-3", "garbage", "-", "x-99999999"])
async def test_who_had_another_stream_gets_everything(hub: Hub, last_id: str) -> None:
    [(_, _, step)] = await take(hub, last_id, 1)
    assert step["fresh"]


async def test_a_slow_reader_gets_the_present_and_no_queue(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "MAX_STEPS", 2)
    frames = hub.frames("")
    parse(await anext(frames))
    quick = asyncio.create_task(take(hub, "", 8))
    await quick  # eight steps have gone by meanwhile
    _, number, step = parse(await anext(frames))
    assert step["fresh"]
    _, following, step = parse(await anext(frames))
    assert (following, step.get("fresh", False)) == (number + 1, False)
    await frames.aclose()


async def test_all_readers_share_one_encoding(hub: Hub) -> None:
    first, second = hub.frames(""), hub.frames("")
    await anext(first)
    await anext(second)
    assert await anext(first) is await anext(second)
    await first.aclose()
    await second.aclose()


async def test_nothing_is_heard_while_nobody_looks(
    bus: Bus, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifetime, "LINGER_S", 0.2)
    cluster = SpokenCluster(bus, 2)
    await cluster.start()
    async with serving(bus) as console:
        idle = len(broker.subscriptions)
        async with httpx.AsyncClient() as client:
            async with client.stream("GET", f"{console.url}api/stream") as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                await anext(answer.aiter_lines())
                await eventually(lambda: len(broker.subscriptions) > idle, "it listens")
                assert bool(console.links.news.watched)
            await eventually(lambda: len(broker.subscriptions) == idle, "it listens no more")
    await cluster.stop()


async def test_answers_are_told_of_only_while_somebody_looks(tmp_path: Any) -> None:
    async with stage_on("memory", tmp_path) as stage:
        await quiet_and_watched(stage)


async def quiet_and_watched(stage: Stage) -> None:
    await stage.coordinator()
    await stage.worker("w0", engine=talker(FAST))
    tap: Tap = await stage.tap(subjects.event("answered"))
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    async with (
        serving(await stage.harness.bus("g0")) as console,
        httpx.AsyncClient(timeout=30) as client,
    ):
        await eventually(lambda: console.links.directory.servable(MODEL), "it serves")
        answer = await client.post(f"{console.url}api/chat", json=body)
        assert answer.status_code == 200, answer.text
        assert tap.items == []
        async with client.stream("GET", f"{console.url}api/stream") as stream:
            await anext(stream.aiter_lines())
            await eventually(lambda: bool(console.links.news.watched), "it is watched")
            answer = await client.post(f"{console.url}api/chat", json=body)
            await eventually(lambda: len(tap.items) == 1, "it is told")
            [event] = tap.of(Event)
            assert event.fields["request"] == f"{answer.json()['id']}-0"
            assert event.fields["instance"] == "w0"
            found = await client.get(f"{console.url}api/requests?q={answer.json()['id']}")
            assert found.json()["requests"][0]["macro"] == MACRO


async def test_pages_and_what_is_refused(bus: Bus) -> None:
    async with serving(bus, demo=False) as console, httpx.AsyncClient() as client:
        page = await client.get(console.url)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        again = await client.get(console.url, headers={"if-none-match": page.headers["etag"]})
        assert again.status_code == 304
        for answer in (page, again):
            assert answer.headers["content-security-policy"] == policy
            assert answer.headers.get_list("cache-control") == ["no-cache"]
        assert (await client.get(f"{console.url}nothing.js")).status_code == 404
        assert (await client.get(f"{console.url}../settings.py")).status_code == 404
        home = await client.get(console.url.removesuffix("/"))
        assert (home.status_code, home.headers["location"]) == (308, "/console/")
        front = await client.get(console.url.removesuffix("console/"))
        assert (front.status_code, front.headers["location"]) == (307, "/console/")
        for what, body in (("load", {"rate": 1}), ("fault", {"instance": "w", "fault": "kill"})):
            answer = await client.post(f"{console.url}api/{what}", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "no_demonstration")


async def test_one_gateway_makes_the_load_of_a_demonstration(
    bus: Bus, broker: MemoryBroker
) -> None:
    """Behind a proxy each request may go to another gateway: the last one asked has the load."""
    other_bus = MemoryBus(broker, name="other")
    await other_bus.connect()
    async with (
        serving(bus) as first,
        serving(other_bus, gateway_id="g1") as second,
        httpx.AsyncClient() as client,
    ):

        async def rates() -> list[float]:
            abouts = [await client.get(f"{one.url}api/about") for one in (first, second)]
            return [about.json()["load"]["rate"] for about in abouts]

        await client.post(f"{first.url}api/load", json={"rate": 0.01})
        assert await rates() == [0.01, 0.0]
        await client.post(f"{second.url}api/load", json={"rate": 0.02})
        assert await rates() == [0.0, 0.02]
        await client.post(f"{first.url}api/load", json={"rate": 0})
        assert await rates() == [0.0, 0.0]
    await other_bus.close()
