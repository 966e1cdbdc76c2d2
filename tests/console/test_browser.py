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
MEASURED_S = 6
#: CPU time of the page's thread at most, of the 16.7 ms of a frame: for each frame, and for each
#: step, of which there are ten a second, with what is painted and written because of it.
FRAME_MS = 4.0
STEP_MS = 16.0
#: From now on: how often lanes are painted, and steps taken.
COUNT_PAINTS = """() => {
  Object.assign(globalThis, { painted: 0, steps: 0 });
  let { paintedAt } = rondo.rhythm.picture;
  Object.defineProperty(rondo.rhythm.picture, "paintedAt", {
    get: () => paintedAt,
    set: (at) => (painted++, (paintedAt = at)),
  });
  rondo.store.addEventListener("past", () => steps++);
  rondo.rhythm.frames.length = 0;
}"""


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


async def holds(page: Page, expression: str) -> None:
    """Returns once it is so. (Playwright's own way is closed by the page's security policy.)"""
    async with asyncio.timeout(WAIT_MS / 1000):
        while not await page.evaluate(expression):  # noqa: ASYNC110 - the page has no event for it
            await asyncio.sleep(0.02)


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


#: What is painted where prefills begin, by the data: [lane, pixel before, pixel behind].
EDGES = """() => {
  const { layout, picture, heldAt, span, scrollTop, colours } = rondo.rhythm;
  const context = picture.moving.getContext("2d");
  const colour = (x, y) => [...context.getImageData(x, y, 1, 1).data.slice(0, 3)];
  const found = [];
  for (const { lane, y } of layout.rows(scrollTop, picture.height)) {
    for (const { at, phase } of lane.phases) {
      const x = (picture.right - picture.left) * (1 - (heldAt - at) / span);
      if (phase !== 2 || x < 20 || x > picture.right - picture.left - 10) continue;
      const top = y + Math.round(layout.laneHeight / 3);
      found.push([lane.id, colour(x + picture.shift - 3, top), colour(x + picture.shift + 3, top)]);
    }
  }
  return [found, colours.prefill];
}"""


async def test_a_picture_that_was_only_shifted_is_the_right_one(bus: Bus) -> None:
    """Spans are where the axis says, although the canvas is painted for some frames in advance."""
    cluster = SpokenCluster(bus, 8)
    await cluster.start()
    async with serving(bus) as console, chromium() as browser:
        seen = await look(browser, console.url)
        page = seen.page
        await live(page)
        await holds(page, "[...rondo.store.lanes.values()].some(lane => lane.phases.length > 6)")
        await cluster.stop()
        await holds(page, "rondo.rhythm.picture.shift > 10")
        await page.evaluate("rondo.rhythm.hold(true)")
        await page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        edges, prefill = await page.evaluate(EDGES)
        assert await page.evaluate("rondo.rhythm.picture.shift > 10")
        orange = [int(prefill[start : start + 2], 16) for start in (1, 3, 5)]
        assert len(edges) > 8
        for lane, before, inside in edges:
            assert inside == orange, lane
            assert before != orange, lane
        assert seen.problems == []


async def test_a_thousand_lanes_move_without_stutter(bus: Bus) -> None:
    """Only what is visible exists, and frames shift a picture that steps alone paint anew.

    Cost is CPU time of the page's thread, so that the answer is the same on a busy machine.
    """
    cluster = SpokenCluster(bus, 1000, num_macros=8)
    await cluster.start()
    async with serving(bus) as console, chromium() as browser:
        seen = await look(browser, console.url)
        page = seen.page
        await live(page)
        await expect(page.locator("#summary")).to_contain_text("1,000 instances", timeout=WAIT_MS)
        await page.locator("#lanes").press("End")
        await page.evaluate(COUNT_PAINTS)
        before_ms = await page_cpu_ms(browser)
        await asyncio.sleep(MEASURED_S)
        spent_ms = await page_cpu_ms(browser) - before_ms
        frames, num_painted, num_steps = await page.evaluate(
            "[rondo.rhythm.frames, painted, steps]"
        )
        drawing_ms = sorted(drawn for _, drawn in frames)
        usual_ms, rare_ms = drawing_ms[len(frames) // 2], drawing_ms[len(frames) * 99 // 100]
        print(
            f"\n{len(frames) / MEASURED_S:.1f} frames/s, {spent_ms / len(frames):.1f} ms of CPU "
            f"each; drawing takes {usual_ms:.1f} ms, of one in a hundred {rare_ms:.1f} ms; "
            f"{num_painted} were painted, the others shifted"
        )
        assert await lanes_of(page).count() < 120
        assert len(frames) > 20
        assert spent_ms < FRAME_MS * len(frames) + STEP_MS * 10 * MEASURED_S
        assert 0 < num_painted <= num_steps + 1
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
