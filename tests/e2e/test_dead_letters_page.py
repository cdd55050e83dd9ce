"""The page of dead letters in headless Chromium, against a plant that runs for real."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.async_api import Error as PlaywrightError
from playwright.async_api import Page, async_playwright, expect

from adapters.kafka.connection import KafkaConnection
from adapters.kafka.sink import KafkaSink
from adapters.objects_local import LocalObjects
from schemas.codec import encode
from schemas.event import uploaded_event_id
from schemas.images import ImageUploaded
from schemas.message import Message
from schemas.subject import ImageRef, Requested, Subject, image_id
from tests.plant import PRODUCT, draw_part, plant_settings, running_plant, teach, write_product
from tests.services import missing

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic",
]  # fmt: skip
PATIENCE_MS = 60_000
PART = "lost-1"

pytestmark = [pytest.mark.needs_chromium, pytest.mark.needs_kafka]


@asynccontextmanager
async def _page(width: int, height: int) -> AsyncIterator[Page]:
    if shutil.which(CHROMIUM) is None:
        missing("Chromium", "a Debian package")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        size = {"width": width, "height": height}
        yield await browser.new_page(locale="ko-KR", viewport=size)  # type: ignore[arg-type]  # as ViewportSize
        await browser.close()


def _lost_upload(bucket: str) -> tuple[ImageUploaded, bytes]:
    """An upload whose object is not in the store, and the bytes that belong there."""
    data = draw_part(88_000)
    digest, now = hashlib.sha256(data).hexdigest(), datetime.now(UTC)
    identity = image_id(product=PRODUCT, sha256=digest, part_id=PART, captured_at=now)
    image = ImageRef(
        bucket=bucket, key=f"images/{digest}", sha256=digest, size_bytes=len(data),
        content_type="image/jpeg",
    )  # fmt: skip
    subject = Subject(
        image_id=identity, product=PRODUCT, part_id=PART, captured_at=now, received_at=now,
        image=image, requested=Requested(anomaly="force", report="skip"),
    )  # fmt: skip
    event = ImageUploaded(event_id=uploaded_event_id(identity), occurred_at=now, subject=subject)
    return event, data


async def _publish(servers: str, *messages: Message) -> None:
    sink = KafkaSink(KafkaConnection(servers))
    try:
        await sink.publish(messages)
    finally:
        await sink.close()


async def test_a_lost_image_is_found_put_back_and_resolved_on_the_page_without_a_reload(
    tmp_path: Path,
) -> None:
    settings = plant_settings(tmp_path / "state")
    root = write_product(tmp_path / "data", normals=8, defects=0)
    roles = ("web", "anomaly", "embed", "record")
    async with running_plant(settings, roles=roles) as running, _page(1920, 1080) as page:
        await asyncio.to_thread(teach, running.url, root)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        store = LocalObjects(tmp_path / "state" / "objects")
        event, data = _lost_upload(store.bucket)
        junk = Message("images.uploaded", b"press-1", b"no event")
        try:
            await page.goto(f"{running.url}/dead-letters")
            await expect(page.get_by_test_id("letters-empty")).to_be_visible(timeout=PATIENCE_MS)
            await _publish(running.bootstrap_servers, encode(event, source="/camera"), junk)
            await _find(page)
            await store.put(event.subject.image.key, data, content_type="image/jpeg")
            await _put_back(page)
            await _see_what_returned(page)
        except (AssertionError, PlaywrightError):
            await page.screenshot(path=tmp_path / "failure.png")
            raise
        finally:
            store.close()
        assert errors == []


async def _find(page: Page) -> None:
    """Two letters of the image, three of the record that is no event; narrowed, opened, read."""
    rows = page.get_by_test_id("letter-row")
    await expect(rows).to_have_count(5, timeout=PATIENCE_MS)
    await page.get_by_test_id("filter-reason").select_option("object_missing")
    await expect(rows).to_have_count(2, timeout=PATIENCE_MS)
    await expect(rows.first).to_contain_text(PART)
    # The picture is what is lost: its place says so.
    await expect(page.get_by_test_id("letter-no-picture").first).to_be_visible(timeout=PATIENCE_MS)
    await page.keyboard.press("j")
    detail = page.get_by_test_id("letter-detail")
    await expect(detail).to_contain_text("저장소에 파일을 되돌려 놓은 뒤", timeout=PATIENCE_MS)
    await page.get_by_test_id("language-en").click()
    await expect(page.get_by_test_id("letter-fix")).to_contain_text("Put the file back")
    await detail.locator("summary").last.click()
    await expect(page.get_by_test_id("letter-value")).to_contain_text(PART)


async def _put_back(page: Page) -> None:
    """All that match; the open letter becomes resolved while one looks at it."""
    await page.get_by_test_id("replay-all").click()
    # Counted by the server, which leaves out what cannot be put back.
    await expect(page.get_by_test_id("replay-count")).to_contain_text("2 events go back")
    await page.get_by_test_id("replay-by").fill("Kim")
    await page.get_by_test_id("replay-reason").fill("file restored")
    await page.get_by_test_id("replay-send").click()
    detail = page.get_by_test_id("letter-detail")
    await expect(detail).to_have_attribute("data-state", "resolved", timeout=PATIENCE_MS)
    await expect(page.get_by_test_id("letter-history")).to_contain_text("Put back by Kim")
    run = page.get_by_test_id("replay-run")
    await expect(run).to_have_attribute("data-resolved", "2", timeout=PATIENCE_MS)
    await expect(page.get_by_test_id("letters-empty")).to_be_visible(timeout=PATIENCE_MS)
    await page.get_by_test_id("state-resolved").click()
    await expect(page.get_by_test_id("letter-row")).to_have_count(2, timeout=PATIENCE_MS)


async def _see_what_returned(page: Page) -> None:
    """One that no stage can read is chosen, put back, and comes back linked to its former."""
    await page.get_by_test_id("filter-reason").select_option("")
    await page.get_by_test_id("state-open").click()
    rows = page.get_by_test_id("letter-row")
    await expect(rows).to_have_count(3, timeout=PATIENCE_MS)
    former = await rows.first.get_attribute("data-id")
    await page.get_by_test_id("letter-check").first.check()
    await page.get_by_test_id("replay-selected").click()
    await page.get_by_test_id("replay-send").click()
    await expect(page.locator(f'[data-testid="letter-row"][data-id="{former}"]')).to_have_count(
        0, timeout=PATIENCE_MS
    )
    await expect(rows).to_have_count(3, timeout=PATIENCE_MS)
    await rows.first.click()
    history = page.get_by_test_id("letter-history")
    await history.get_by_role("button", name="Returned from a replay").click()
    detail = page.get_by_test_id("letter-detail")
    await expect(detail).to_have_attribute("data-id", str(former), timeout=PATIENCE_MS)
    await expect(detail).to_have_attribute("data-state", "replayed")
