"""The console over HTTP on any bus, a cluster that only speaks, and a browser to look with."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, async_playwright
from prometheus_client import CollectorRegistry

from rondo.bus import subjects
from rondo.bus.protocol import Bus, Incoming
from rondo.bus.tasks import end_task
from rondo.local.model_folder import find_model
from rondo.perf.profile import LatencyProfile
from rondo.types import Group, KvOccupancy, Phase
from rondo.wire import messages as m
from rondo_gateway.answers import Answers
from rondo_gateway.app import Api, create_app
from rondo_gateway.attempt import Links
from rondo_gateway.directory import Directory
from rondo_gateway.lengths import OutputLengths
from rondo_gateway.metrics import GatewayMetrics
from rondo_gateway.security.front_door import FrontDoor
from rondo_gateway.server import GatewayServer
from rondo_gateway.settings import GatewaySettings
from rondo_gateway.text.model_files import ModelFiles
from rondo_worker.engines.emulated import EmulatedEngine
from tests.support.services import MACRO, MODEL, steps_of

TOTAL_BLOCKS = 1000


@dataclass
class ConsoleUnderTest:
    """A gateway's HTTP server; `url` is the console's."""

    url: str
    api: Api
    links: Links


@asynccontextmanager
async def serving(
    bus: Bus, *, demo: bool = True, port: int = 0, gateway_id: str = "g0", keys: str = ""
) -> AsyncIterator[ConsoleUnderTest]:
    """A gateway that serves its console, and answers questions, until the block ends."""
    settings = GatewaySettings(models=MODEL, demo=demo, http_port=port, stall_s=0.5, keys=keys)
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    answers = Answers(bus, gateway_id, metrics)
    directory = Directory(answers.instance_changed)
    links = Links(bus, gateway_id, answers, directory, OutputLengths(), metrics, settings)
    await answers.start()
    await directory.start(bus)
    files = ModelFiles.load(MODEL, find_model(None, weights=False))
    api = Api(links, {MODEL: files}, directory, registry)
    await api.console.start()
    door = FrontDoor(settings).door
    server = GatewayServer(create_app(api, settings.max_body_bytes, door, metrics), settings)
    task = asyncio.create_task(server.run_until_told())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield ConsoleUnderTest(f"http://127.0.0.1:{server.port}/console/", api, links)
    finally:
        await api.console.close()
        server.should_exit = True
        await task


@dataclass
class Looker:
    """A page, and whatever went wrong on it."""

    page: Page
    problems: list[str] = field(default_factory=list)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A headless browser; a test without one is skipped, but not in CI."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        problem = "no Chromium: apt-get install chromium"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(problem)
    async with async_playwright() as driver:
        # No sandbox: containers and root have none. The pages are our own.
        browser = await driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


async def look(
    browser: Browser,
    url: str,
    *,
    dark: bool = False,
    width: int = 1440,
    height: int = 900,
    key: str = "",
) -> Looker:
    """Opens the console and notes every error on it."""
    page = await browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        http_credentials={"username": "me", "password": key} if key else None,
    )
    looker = Looker(page)
    page.on("pageerror", lambda error: looker.problems.append(str(error)))
    page.on(
        "console",
        lambda said: looker.problems.append(said.text) if said.type == "error" else None,
    )
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((url.removesuffix("/console/"), "data:"))
            else looker.problems.append(f"asks another host: {request.url}")
        ),
    )
    await page.goto(url)
    return looker


async def page_cpu_ms(browser: Browser) -> float:
    """CPU time so far of the threads that pages run on (Linux)."""
    session = await browser.new_browser_cdp_session()
    listing = await session.send("SystemInfo.getProcessInfo")
    await session.detach()
    pids = [one["id"] for one in listing["processInfo"] if one["type"] == "renderer"]
    return sum(map(_main_thread_ms, pids))


def _main_thread_ms(pid: int) -> float:
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e6


class SpokenCluster:
    """Says on the bus what a cluster of `num_lanes` instances would say; there is no engine.

    In each macro-instance one lane in eight is in a turn, and the turns roll on.
    """

    TURN_S = 0.25
    SHARE = 8

    def __init__(self, bus: Bus, num_lanes: int, num_macros: int = 1) -> None:
        self._bus = bus
        self.names = [f"w-{index:04d}" for index in range(num_lanes)]
        macros = [MACRO, *(subjects.further_macro_id(MACRO, n) for n in range(2, num_macros + 1))]
        size = -(-num_lanes // num_macros)
        self.groups = {
            macro: self.names[index * size : (index + 1) * size]
            for index, macro in enumerate(macros)
        }
        self.num_pending = 0
        self._in_turn: set[str] = set()
        self._seq = self._turn = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self, *, roll: bool = True) -> None:
        """Writes the records, answers for the owners, and lets the turns roll."""
        instances = await self._bus.key_value(subjects.INSTANCES_BUCKET)
        for name in self.names:
            await instances.put(name, instance_record(name))
        await self.write_macros()
        await self._bus.subscribe(subjects.STATUS, self._on_status)
        if roll:
            self._task = asyncio.create_task(self._roll())

    async def stop(self) -> None:
        """Falls silent."""
        await end_task(self._task)

    async def write_macros(self) -> None:
        """Says who belongs where."""
        bucket = await self._bus.key_value(subjects.MACROS_BUCKET)
        groups = tuple(
            Group(macro_id=macro, instance_ids=tuple(names)) for macro, names in self.groups.items()
        )
        for macro, names in self.groups.items():
            record = m.MacroRecord(
                macro_id=macro,
                model=MODEL,
                owner_id="c0",
                epoch=1,
                beat=1,
                max_model_len=1024,
                instance_ids=tuple(names),
                groups=groups if macro == MACRO else (),
            )
            await bucket.put(macro, record)

    async def tell(self, kind: str, source_id: str = MACRO, **fields: object) -> None:
        """An event."""
        self._seq += 1
        event = m.Event(kind=kind, source_id=source_id, seq=self._seq, fields=dict(fields))  # type: ignore[arg-type]
        await self._bus.publish(subjects.event(kind), event)

    def _on_status(self, incoming: Incoming) -> None:
        respond = incoming.respond
        if respond is None:
            return
        for macro, names in self.groups.items():
            states = tuple(self._status(name) for name in names)
            reply = m.StatusReply(
                macro_id=macro,
                model=MODEL,
                owner_id="c0",
                epoch=1,
                num_pending=self.num_pending,
                instances=states,
            )
            asyncio.ensure_future(respond(reply))

    def _status(self, name: str) -> m.InstanceStatus:
        used = hash((name, self._seq // 50)) % TOTAL_BLOCKS
        return m.InstanceStatus(
            instance_id=name,
            engine="emulated",
            phase=Phase.PREFILL if name in self._in_turn else Phase.DECODE,
            turn=self._turn,
            num_running=used // 20,
            num_waiting=1 if name in self._in_turn else 0,
            kv=KvOccupancy(
                total_blocks=TOTAL_BLOCKS,
                used_blocks=used,
                free_blocks=TOTAL_BLOCKS - used,
                reserved_blocks=10,
            ),
            report_age_s=0.01,
        )

    async def _roll(self) -> None:
        while True:
            self._turn = turn = self._turn + 1
            for macro, names in self.groups.items():
                for offset in range(turn % self.SHARE, len(names), self.SHARE):
                    now, last = names[offset], names[offset - 1]
                    await self.tell("turn_ended", macro, instance=last, turn=turn - 1, seconds=0.25)
                    await self.tell("turn_began", macro, instance=now, turn=turn, seconds=0.0)
                    self._in_turn.discard(last)
                    self._in_turn.add(now)
            await asyncio.sleep(self.TURN_S)


def instance_record(name: str) -> m.InstanceRecord:
    """What a worker writes into the bucket."""
    return m.InstanceRecord(
        instance_id=name,
        incarnation="a",
        model=MODEL,
        engine="emulated",
        max_model_len=1024,
        block_size=16,
        num_blocks=TOTAL_BLOCKS,
        max_running=64,
        max_prefill_tokens=512,
        profile=steps_of(5.0, 5.0),
    )


def talker(profile: LatencyProfile, num_blocks: int = TOTAL_BLOCKS) -> EmulatedEngine:
    """An emulated engine whose answers the gateway's tokenizer can read."""
    folder = find_model(None, weights=False)
    return EmulatedEngine.from_model(
        folder, profile, model_name=MODEL, num_blocks=num_blocks, max_model_len=1024
    )


def image_folder(tmp_path: Path) -> Path:
    """Where screenshots go: into docs/images when RONDO_SCREENSHOTS asks for it."""
    if os.environ.get("RONDO_SCREENSHOTS"):
        return Path(__file__).parents[2] / "docs" / "images"
    return tmp_path
