"""The page in headless Chromium against every role, run for real."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from playwright.async_api import (
    Browser,
    ConsoleMessage,
    Page,
    ViewportSize,
    async_playwright,
    expect,
)
from playwright.async_api import Error as PlaywrightError

from adapters.kafka.connection import KafkaConnection
from adapters.kafka.sink import KafkaSink
from adapters.objects_local import LocalObjects
from app.chaos.scripted_llm import ScriptedLlm
from app.client import Client
from app.up import Running
from schemas.codec import encode
from schemas.event import uploaded_event_id
from schemas.images import ImageUploaded
from schemas.subject import ImageRef, Requested, Subject, image_id
from tests.plant import PRODUCT, draw_part, plant_settings, running_plant, teach, write_product
from tests.services import missing

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic",
]  # fmt: skip
WIDE: ViewportSize = {"width": 1920, "height": 1080}
# Heartbeats come every 5 s; the page calls itself stale after 10 s without one.
STALE_WITHIN_MS = 20_000
ARRIVES_WITHIN_MS = 30_000

pytestmark = [pytest.mark.needs_chromium, pytest.mark.needs_kafka]


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    if shutil.which(CHROMIUM) is None:
        missing("Chromium", "a Debian package")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


class Watched:
    """A page whose console is read along."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._hear)

    def _hear(self, line: ConsoleMessage) -> None:
        if line.type == "error":
            self.errors.append(f"{line.text} {line.location['url']}")


async def _set_policy(url: str, policy: str) -> None:
    def change() -> None:
        with Client(url) as client:
            client.put_product(PRODUCT, policy={"anomaly": policy, "report": policy})

    await asyncio.to_thread(change)


async def _publish_directly(running: Running, state: Path, number: int) -> str:
    """What a camera does that knows only Kafka and the store."""
    data = draw_part(90_000 + number, defect=True)
    digest = hashlib.sha256(data).hexdigest()
    key = f"images/{digest}"
    store = LocalObjects(state / "objects")
    await store.put(key, data, content_type="image/jpeg")
    now = datetime.now(UTC)
    part = f"direct-{number}"
    identity = image_id(product=PRODUCT, sha256=digest, part_id=part, captured_at=now)
    subject = Subject(
        image_id=identity,
        product=PRODUCT,
        part_id=part,
        captured_at=now,
        received_at=now,
        image=ImageRef(bucket=store.bucket, key=key, sha256=digest, size_bytes=len(data)),
        requested=Requested(anomaly="force", report="skip"),
    )
    event = ImageUploaded(event_id=uploaded_event_id(identity), occurred_at=now, subject=subject)
    sink = KafkaSink(KafkaConnection(running.bootstrap_servers))
    try:
        await sink.publish([encode(event, source="/camera")])
    finally:
        await sink.close()
        store.close()
    return identity


async def _wait_complete(url: str, image_ids: list[str]) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        async with asyncio.timeout(60):
            for identity in image_ids:
                while True:
                    answer = await http.get(f"/v1/images/{identity}")
                    if answer.status_code == 200 and answer.json()["status"] == "complete":
                        break
                    await asyncio.sleep(0.1)


async def test_an_image_of_ones_own_becomes_a_verdict_and_a_report_on_the_page(
    tmp_path: Path,
) -> None:
    settings = plant_settings(tmp_path / "state")
    root = write_product(tmp_path / "data")
    part = tmp_path / "part.jpg"
    part.write_bytes(draw_part(77_777, defect=True))
    async with ScriptedLlm() as llm, open_browser() as browser:
        environment = {"LINESIDE_LLM__BASE_URL": llm.url, "LINESIDE_LLM__KIND": "tgi"}
        async with running_plant(settings, environment=environment) as running:
            await asyncio.to_thread(teach, running.url, root)
            await _set_policy(running.url, "on_request")
            watched = Watched(await browser.new_page(locale="ko-KR", viewport=WIDE))
            page = watched.page
            await page.goto(running.url)
            try:
                await _inspect_on_the_page(page, part, llm.token)
                await _survive_a_dead_notifier(page, running, tmp_path / "state")
            except (AssertionError, PlaywrightError):
                await page.screenshot(path=tmp_path / "failure.png")
                raise
    # While the server is away the browser itself logs that a connection failed.
    away = ("WebSocket", "ERR_CONNECTION", "Failed to load resource")
    assert [line for line in watched.errors if not any(word in line for word in away)] == []


async def _inspect_on_the_page(page: Page, part: Path, token: str) -> None:
    await page.get_by_test_id("upload-open").click()
    await page.get_by_test_id("product-select").select_option(PRODUCT)
    await page.get_by_test_id("upload-input").set_input_files(part)
    await expect(page.get_by_test_id("queue-item").first).to_be_visible(timeout=ARRIVES_WITHIN_MS)
    await page.keyboard.press("Escape")
    await page.get_by_test_id("queue-item").first.click()
    await expect(page.get_by_test_id("verdict")).to_contain_text(
        "미판정", timeout=ARRIVES_WITHIN_MS
    )
    await page.get_by_test_id("run-anomaly").click()
    await expect(page.get_by_test_id("verdict")).to_contain_text("불량", timeout=ARRIVES_WITHIN_MS)
    await expect(page.get_by_test_id("regions").first).to_be_attached()
    await page.get_by_test_id("heatmap-toggle").click()
    await expect(page.get_by_test_id("heatmap").first).to_be_visible(timeout=ARRIVES_WITHIN_MS)
    await expect(page.get_by_test_id("similar-case").first).to_be_visible()
    await page.get_by_test_id("make-report").click()
    await expect(page.get_by_test_id("report")).to_contain_text(token, timeout=ARRIVES_WITHIN_MS)
    await page.get_by_test_id("citation").first.click()
    await expect(page.get_by_test_id("citation-quote")).to_be_visible()
    await page.keyboard.press("Escape")
    await page.get_by_test_id("language-en").click()
    await expect(page.get_by_test_id("verdict")).to_contain_text("NG")
    assert await page.evaluate("document.documentElement.lang") == "en"


async def _survive_a_dead_notifier(page: Page, running: Running, state: Path) -> None:
    """Freeze the process until the page notices, let verdicts be made meanwhile, then kill it."""
    before = await page.get_by_test_id("queue-item").count()
    web = running.supervisor.children["web"].process
    assert web
    web.send_signal(signal.SIGSTOP)
    missed = [await _publish_directly(running, state, number) for number in range(5)]
    await expect(page.get_by_test_id("stale-banner")).to_be_visible(timeout=STALE_WITHIN_MS)
    web.kill()
    await expect(page.get_by_test_id("caught-up-banner")).to_be_visible(timeout=60_000)
    await expect(page.get_by_test_id("stale-banner")).to_be_hidden()
    await _wait_complete(running.url, missed)
    await expect(page.get_by_test_id("queue-item")).to_have_count(
        before + len(missed), timeout=ARRIVES_WITHIN_MS
    )
