"""Pictures of the console under load, of real schedulers and workers with emulated engines.

With RONDO_SCREENSHOTS=1 they replace those in docs/images.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Page, expect

from rondo.perf.profile import LatencyProfile, load_profile
from rondo_coordinator.settings import ScalingSettings
from tests.support.console import (
    ConsoleUnderTest,
    Looker,
    chromium,
    image_folder,
    look,
    serving,
    talker,
)
from tests.support.services import Stage, stage_on, steps_of

pytestmark = pytest.mark.timeout(300)

WAIT_MS = 60_000
#: The picture is to be full.
FULL_S = 14.0
MAX_BYTES = 200_000
LARGE = load_profile("codellama-34b-l20-tp4")
#: Few steps a second: 64 engines share one process here.
SLOW = steps_of(260.0, 85.0)


@asynccontextmanager
async def console(
    tmp_path: Path, num_workers: int, rate: float, profile: LatencyProfile = LARGE
) -> AsyncIterator[tuple[Stage, ConsoleUnderTest]]:
    """A console of `num_workers` instances under load."""
    async with stage_on("memory", tmp_path) as stage:
        settings = ScalingSettings(macro_lower=3, macro_upper=16)
        # All of it is one process, which may be held up for a moment: nobody is to be given up.
        await stage.coordinator(scaling=settings, lease_s=20.0, instance_timeout_s=30.0)
        for index in range(num_workers):
            await stage.worker(f"gpu-{index:02d}", engine=talker(profile))
        async with serving(await stage.harness.bus("g0")) as made:
            await post(made, "load", rate=rate)
            yield stage, made


async def post(made: ConsoleUnderTest, what: str, **body: object) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{made.url}api/{what}", json=body)
    assert answer.status_code == 200, answer.text


async def settled(*seen: Looker) -> list[Page]:
    """The pages when there is enough to see, and nothing has gone wrong on any of them."""
    for one in seen:
        await expect(one.page.locator("#link")).to_have_text("Live", timeout=WAIT_MS)
    await asyncio.sleep(FULL_S)
    assert [one.problems for one in seen] == [[] for _ in seen]
    return [one.page for one in seen]


async def shoot(page: Page, folder: Path, name: str) -> None:
    path = folder / f"console-{name}.png"
    await page.screenshot(path=path)
    assert 10_000 < path.stat().st_size < MAX_BYTES


async def answered(page: Page) -> None:
    """Opens the story of a request that has ended."""
    await page.get_by_role("tab", name="Requests").click()
    await page.locator("#panel-requests .list button", has_text="answered").first.click()


async def test_four_instances(tmp_path: Path) -> None:
    async with console(tmp_path, 4, 9.0) as (_, made), chromium() as browser:
        seen = [
            await look(browser, made.url),
            await look(browser, made.url, dark=True),
            await look(browser, made.url, width=390, height=844),
        ]
        light, dark, phone = await settled(*seen)
        await shoot(light, image_folder(tmp_path), "4-light")
        await shoot(dark, image_folder(tmp_path), "4-dark")
        await shoot(phone, image_folder(tmp_path), "phone")
        await answered(light)
        await shoot(light, image_folder(tmp_path), "request")
        assert [one.problems for one in seen] == [[], [], []]


async def test_sixty_four_instances(tmp_path: Path) -> None:
    async with console(tmp_path, 64, 9.0, SLOW) as (_, made), chromium() as browser:
        [page] = await settled(await look(browser, made.url, dark=True))
        await shoot(page, image_folder(tmp_path), "64-dark")


async def test_a_split_in_progress(tmp_path: Path) -> None:
    """One instance too many: the macro-instance becomes two while requests run."""
    async with console(tmp_path, 16, 14.0) as (stage, made), chromium() as browser:
        [page] = await settled(await look(browser, made.url))
        await stage.worker("gpu-16", engine=talker(LARGE))
        heads = page.locator(".row.group")
        await expect(heads).to_have_count(2, timeout=WAIT_MS)
        await asyncio.sleep(1.5)
        await shoot(page, image_folder(tmp_path), "split")
        await expect(page.locator(".log")).to_contain_text("Mitosis")
