"""The console in a real browser: what a person sees, clicks, and has read to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Locator, Page, expect

from rondo.bus.memory import MemoryBroker, MemoryBus
from rondo.bus.protocol import Bus
from rondo.service.api_keys import ApiKey, changing_keys, digest, new_key
from tests.support.console import SpokenCluster, chromium, look, page_cpu_ms, serving, talker
from tests.support.services import FAST, MACRO, Stage, stage_on, steps_of

pytestmark = pytest.mark.timeout(240)

WAIT_MS = 30_000


@pytest.fixture
async def bus() -> AsyncIterator[Bus]:
    """A bus of one process."""
    made = MemoryBus(MemoryBroker(), name="test")
    await made.connect()
    yield made
    await made.close()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """Real coordinators and workers on the in-memory bus."""
    async with stage_on("memory", tmp_path) as made:
        yield made


async def live(page: Page) -> None:
    await expect(page.locator("#link")).to_have_text("Live", timeout=WAIT_MS)


def lanes_of(page: Page) -> Locator:
    return page.get_by_role("listbox", name="Instances by macro-instance").get_by_role("option")


async def test_a_person_clicks_through(stage: Stage) -> None:
    """Four real instances: lanes, a question, its lane, its story, the table, the themes."""
    await stage.coordinator()
    for index in range(4):
        await stage.worker(f"w{index}", engine=talker(steps_of(30.0, 10.0)))
    async with serving(await stage.harness.bus("g0")) as console, chromium() as browser:
        seen = await look(browser, console.url)
        page = seen.page
        await live(page)
        await expect(lanes_of(page)).to_have_count(4, timeout=WAIT_MS)
        await page.get_by_role("tab", name="Playground").click()
        await page.get_by_label("Prompt").fill("What is a rondo?")
        await page.get_by_label("Tokens at most").fill("40")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_text("its lane is highlighted")).to_be_visible(timeout=WAIT_MS)
        await expect(page.locator(".stats dd").first).not_to_have_text("–", timeout=WAIT_MS)
        await expect(page.get_by_role("button", name="Send")).to_be_enabled(timeout=WAIT_MS)
        assert await page.locator(".answer").inner_text()
        request_id = await page.locator(".hint code").inner_text()
        await expect(page.locator('[role=option][aria-selected="true"]')).to_have_count(1)

        await page.get_by_role("tab", name="Requests").click()
        await page.get_by_label("Request id").fill(request_id[4:20])
        await page.get_by_role("button", name="Find").click()
        await expect(page.get_by_text("1 request found")).to_be_visible(timeout=WAIT_MS)
        story = page.get_by_label("The chosen request")
        for text in (
            "admitted to w",
            "prefilled",
            "decode began",
            "ended: ",
            "Where the time went",
        ):
            await expect(story.get_by_text(text).first).to_be_visible(timeout=WAIT_MS)

        await page.get_by_role("tab", name="Instances").click()
        await expect(page.get_by_role("rowheader")).to_have_count(4)
        await page.get_by_role("button", name="w2").click()
        await page.get_by_role("tab", name="Cluster").click()
        await expect(page.get_by_role("heading", name="w2")).to_be_visible()
        await page.get_by_label("Theme").select_option("dark")
        assert await page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert seen.problems == []


async def test_what_is_read_aloud(bus: Bus) -> None:
    """The accessibility tree names what can be used, and keys reach it."""
    cluster = SpokenCluster(bus, 3)
    await cluster.start(roll=False)
    async with serving(bus, demo=False) as console, chromium() as browser:
        seen = await look(browser, console.url)
        page = seen.page
        await live(page)
        await expect(lanes_of(page)).to_have_count(3, timeout=WAIT_MS)
        await expect(page.get_by_role("option", name="w-0001: decode")).to_be_visible(
            timeout=WAIT_MS
        )
        await expect(page.locator("#summary")).to_contain_text("3 instances", timeout=WAIT_MS)
        tree = await page.locator("body").aria_snapshot()
        for text in (
            'heading "Rondo" [level=1]',
            'tab "Cluster" [selected]',
            'listbox "Instances by macro-instance',
            "w-0001: decode",
            'button "Hold"',
            "status: Live",
            'combobox "Theme"',
            'heading "Time to first token, p99"',
        ):
            assert text in tree, tree
        lanes = page.locator("#lanes")
        await lanes.focus()
        await lanes.press("ArrowDown")
        await lanes.press("ArrowDown")
        await expect(page.get_by_role("heading", name="w-0001")).to_be_visible()
        assert await lanes.get_attribute("aria-activedescendant") == "lane-1"
        await page.get_by_role("tab", name="Cluster").press("ArrowRight")
        await expect(page.get_by_role("tab", name="Requests")).to_be_focused()
        await expect(page.get_by_role("region", name="Demonstration")).to_have_count(0)
        assert seen.problems == []


async def test_it_comes_back_by_itself(bus: Bus) -> None:
    """The gateway goes and another takes its port: the page shows what is so by then."""
    cluster = SpokenCluster(bus, 4)
    await cluster.start()
    async with chromium() as browser:
        async with serving(bus) as console:
            seen = await look(browser, console.url)
            page, port = seen.page, int(console.url.split(":")[2].split("/")[0])
            await live(page)
            await expect(lanes_of(page)).to_have_count(4, timeout=WAIT_MS)
        await expect(page.locator("#link")).to_contain_text("lost", timeout=WAIT_MS)
        cluster.names = cluster.names[:3]
        cluster.groups[MACRO] = cluster.names
        instances = await bus.key_value("rondo_instances")
        await instances.delete("w-0003")
        await cluster.write_macros()
        async with serving(bus, port=port):
            await live(page)
            await expect(lanes_of(page)).to_have_count(3, timeout=WAIT_MS)
            before = await page.evaluate("rondo.feed.lastAt")
            await asyncio.sleep(1.5)
            assert await page.evaluate("rondo.feed.lastAt") > before
    await cluster.stop()


async def test_a_thousand_lanes_move_without_stutter(bus: Bus) -> None:
    """Only what is visible exists, and a frame costs the page's thread less than its 16 ms.

    In CPU time, so that the answer is the same on a busy machine.
    """
    cluster = SpokenCluster(bus, 1000, num_macros=8)
    await cluster.start()
    async with serving(bus) as console, chromium() as browser:
        seen = await look(browser, console.url)
        page = seen.page
        await live(page)
        await expect(page.locator("#summary")).to_contain_text("1,000 instances", timeout=WAIT_MS)
        await page.locator("#lanes").press("End")
        await page.evaluate("rondo.rhythm.frames.length = 0")
        before_ms = await page_cpu_ms(browser)
        await asyncio.sleep(6)
        spent_ms = await page_cpu_ms(browser) - before_ms
        num_frames = await page.evaluate("rondo.rhythm.frames.length")
        assert await lanes_of(page).count() < 120
        assert num_frames > 20
        assert spent_ms / num_frames < 16.0
        phases = "[...rondo.store.lanes.values()].filter(lane => lane.phases.length > 2).length"
        assert await page.evaluate(phases) > 900
        assert seen.problems == []
    await cluster.stop()


async def test_faults_and_load_only_where_it_is_a_demonstration(stage: Stage) -> None:
    """The slider makes load; a fault is ordered, and refused where nobody obeys."""
    await stage.coordinator()
    await stage.worker("w0", engine=talker(FAST))
    async with serving(await stage.harness.bus("g0")) as console, chromium() as browser:
        seen = await look(browser, console.url)
        page = seen.page
        await live(page)
        await page.get_by_role("tab", name="Playground").click()
        slider = page.get_by_label("Load")
        await slider.fill("20")
        await expect(page.locator("#figures article").nth(3).locator(".value")).not_to_have_text(
            "0.0", timeout=WAIT_MS
        )
        await slider.fill("0")
        await page.get_by_role("button", name="Pause").click()
        await expect(page.get_by_text("takes no faults")).to_be_visible(timeout=WAIT_MS)


async def test_with_keys_the_browser_asks_for_one(bus: Bus, tmp_path: Path) -> None:
    """Pages, stream and actions go with the key that the browser was given; no page stores it."""
    admin, plain = new_key("boss"), new_key("app")
    path = tmp_path / "keys.json"
    with changing_keys(path, "test") as keys:
        keys.append(ApiKey(id="boss", sha256=digest(admin), scopes=("admin", "inference")))
        keys.append(ApiKey(id="app", sha256=digest(plain)))
    cluster = SpokenCluster(bus, 3)
    await cluster.start()
    async with serving(bus, keys=str(path)) as console, chromium() as browser:
        async with httpx.AsyncClient() as client:
            stream = f"{console.url}api/stream"
            refused = await client.get(stream)
            assert refused.status_code == 401
            assert "Basic" in refused.headers["www-authenticate"]
            answer = await client.get(stream, headers={"authorization": f"Bearer {plain}"})
            assert answer.status_code == 403
        seen = await look(browser, console.url, key=admin)
        await live(seen.page)
        await expect(lanes_of(seen.page)).to_have_count(3, timeout=WAIT_MS)
        await seen.page.get_by_role("tab", name="Playground").click()
        await seen.page.get_by_label("Load").fill("1")
        await seen.page.get_by_label("Load").fill("0")
        stored = await seen.page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})")
        assert admin not in stored
        assert [one for one in seen.problems if "401" not in one] == []
    await cluster.stop()
