"""Sizes, contrast and overflow of the pages, and the troubles that they tell apart."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from app.settings import Settings
from app.up import Running
from tests.e2e.test_operator_page import STALE_WITHIN_MS, WIDE, Watched, open_browser
from tests.page_rig import fill, send, write_past
from tests.plant import plant_settings, running_plant

MEASURE = (Path(__file__).parent / "measure.js").read_text("utf-8")
SIZES = {"wide": (1920, 1080), "tablet": (1280, 800), "phone": (360, 740)}
LONG_NAME = "PART-" + "0123456789" * 19

pytestmark = [
    pytest.mark.needs_chromium,
    pytest.mark.needs_kafka,
    pytest.mark.asyncio(loop_scope="module"),
]


@dataclass(frozen=True)
class Line:
    """A web role whose pages are filled, `ng` is an image of them, and a browser."""

    settings: Settings
    running: Running
    browser: Browser
    ng: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def line(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Line]:
    settings = plant_settings(tmp_path_factory.mktemp("pages") / "state")
    async with running_plant(settings, roles=("web",)) as running, open_browser() as browser:
        yield Line(settings, running, browser, await fill(running, settings, long_name=LONG_NAME))


async def test_the_pages_keep_their_sizes_and_contrast_on_every_screen(line: Line) -> None:
    looks = itertools.product(SIZES, ("light", "dark"), ("", f"i/{line.ng}", "setup"))
    for number, (size, theme, path) in enumerate(looks):
        language = "en" if number % 2 else "ko"
        measured = await _measure(line.browser, line.running.url, path, size, theme, language)
        where = f"/{path} {size} {theme} {language}"
        assert measured.pop("faint") == [], where
        assert measured.pop("small") == [], where
        assert measured.pop("errors") == [], where
        assert measured["sideways"] <= 0, where
        assert measured["header"] == 64, where
        assert measured["body_px"] == 18, where
        if path != "setup":
            assert measured["shape"] == _shape(size, path), where
            assert len(measured["decisions"]) == 4, where
            assert min(measured["decisions"]) >= 72, where


def _shape(size: str, path: str) -> int:
    """Height of the verdict's shape: 160 px from two metres, less where the screen is small."""
    if size == "wide":
        return 160
    return 112 if path and size == "tablet" else 96


async def _measure(
    browser: Browser, url: str, path: str, size: str, theme: str, language: str
) -> dict[str, Any]:
    width, height = SIZES[size]
    scheme: Literal["light", "dark"] = "light" if theme == "light" else "dark"
    context = await browser.new_context(
        viewport={"width": width, "height": height}, locale="ko-KR", color_scheme=scheme
    )
    watched = Watched(await context.new_page())
    page = watched.page
    await page.goto(f"{url}/{path}", wait_until="networkidle")
    await page.get_by_test_id(f"language-{language}").click()
    if path == "setup":
        await expect(page.get_by_test_id("setup-page")).to_be_visible()
    else:
        await expect(page.get_by_test_id("verdict")).to_have_attribute("data-state", "NG")
        await expect(page.get_by_test_id("not-similar").first).to_be_visible()
    measured: dict[str, Any] = await page.evaluate(MEASURE)
    await context.close()
    return measured | {"errors": watched.errors}


async def test_four_troubles_are_told_apart_with_seconds(line: Line) -> None:
    page = await line.browser.new_page(locale="ko-KR", viewport=WIDE)
    await page.goto(line.running.url)
    await expect(page.get_by_test_id("connection")).to_have_attribute("data-phase", "live")
    banners = page.locator(".banner")
    await expect(banners).to_have_count(0)

    await write_past(line.settings, "cam-9", ago_s=100, every_s=5)
    silent = page.get_by_test_id("silent-banner")
    await expect(silent).to_contain_text("cam-9", timeout=STALE_WITHIN_MS)
    await expect(silent).to_contain_text("초째")

    await asyncio.to_thread(send, line.running.url, 300)  # no stage runs here: it stays unjudged
    late = page.get_by_test_id("late-banner")
    await expect(late).to_contain_text("1장", timeout=2 * STALE_WITHIN_MS)

    await _lose_the_broker(page, line.running)
    await expect(late).to_be_visible()

    web = line.running.supervisor.children["web"].process
    assert web
    web.send_signal(signal.SIGSTOP)
    await expect(page.get_by_test_id("stale-banner")).to_contain_text("초", timeout=STALE_WITHIN_MS)
    await expect(banners).to_have_count(1)
    web.send_signal(signal.SIGCONT)
    await expect(page.get_by_test_id("stale-banner")).to_be_hidden(timeout=STALE_WITHIN_MS)


async def _lose_the_broker(page: Page, running: Running) -> None:
    """Freeze it until the page says so, then kill it: `up` starts it again."""
    assert running.embedded_broker
    (node,) = running.embedded_broker.pids
    os.kill(node, signal.SIGSTOP)
    away = page.get_by_test_id("broker-banner")
    await expect(away).to_contain_text("초째", timeout=2 * STALE_WITHIN_MS)
    await expect(page.get_by_test_id("late-banner")).to_be_hidden()
    os.kill(node, signal.SIGKILL)
    await expect(away).to_be_hidden(timeout=3 * STALE_WITHIN_MS)
    assert running.embedded_broker.pids != [node]
