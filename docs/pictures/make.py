"""Makes the README's pictures from generated products: python docs/pictures/make.py."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import httpx
from PIL import Image
from playwright.async_api import async_playwright

from app.client import Client
from app.data_folder import read_data_folder
from app.demo.run import plan_of
from app.importing import import_product
from app.samples.catalog import SOLAR_CELL
from app.samples.prepare import prepare
from app.samples.split import split
from app.settings import Settings, WebSettings
from app.up import free_port, running_system

HERE = Path(__file__).parent
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
PER_PRODUCT = 12
# Of theme.css: the verdicts, their texts in both themes, the accent, black and white.
MEANT = [
    (0x00, 0x9E, 0x73),
    (0x3C, 0xC5, 0x9B),
    (0x00, 0x70, 0x4F),
    (0xD5, 0x5E, 0x00),
    (0xFF, 0x9A, 0x4D),
    (0xA3, 0x47, 0x00),
    (0xF0, 0xE4, 0x42),
    (0x6B, 0x61, 0x00),
    (0x2F, 0x4D, 0x68),
    (0xB9, 0xCB, 0xDC),
    (0x00, 0x00, 0x00),
    (0xFF, 0xFF, 0xFF),
]


async def main() -> None:
    """Teach the drawn products, send held-out pictures, and photograph the page."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = root / "data"
        prepare(data)
        settings = Settings(state_dir=root / "state", web=WebSettings(port=free_port()))
        async with running_system(settings) as running:
            products = [f for f in read_data_folder(data) if f.code != SOLAR_CELL.code]
            with Client(running.url) as client:
                for product in products:
                    import_product(client, plan_of(data, product), lambda *_: None)
            codes = [product.code for product in products]
            shown = await _send(running.url, data, codes)
            await _photograph(running.url, shown)


async def _send(url: str, data: Path, codes: list[str]) -> str:
    """Send pictures by turns; returns a defect that was found and explained."""
    ids: list[str] = []
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
        for number in range(PER_PRODUCT):
            for code in codes:
                path = split(data, code).held_out[number]
                fields = {"product": code, "station": "OP-40", "lot_id": "1124-A"}
                fields["part_id"] = f"{code[:1]}{number + 401}"
                answer = await http.post(
                    "/v1/images", data=fields, files={"file": ("part.jpg", path.read_bytes())}
                )
                ids.append(answer.raise_for_status().json()["image_id"])
        views = [await _complete(http, image_id) for image_id in ids]
    best = max(views, key=_worth)
    return str(best["image_id"])


async def _complete(http: httpx.AsyncClient, image_id: str) -> dict[str, object]:
    while True:
        view = (await http.get(f"/v1/images/{image_id}")).json()
        if view["status"] != "pending":
            return dict(view)
        await asyncio.sleep(0.2)


def _worth(view: dict[str, object]) -> tuple[int, float]:
    """A found, located and explained defect shows most."""
    scored, explained = view["scored"], view["explained"]
    assert isinstance(scored, dict)
    is_told = isinstance(explained, dict) and not explained["refused"]
    ratio = scored["score"] / scored["threshold"]
    return (bool(scored["regions"]) + 2 * is_told, ratio)


async def _photograph(url: str, image_id: str) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, language, size in (
            ("operator-ko.png", "ko", {"width": 1920, "height": 1080}),
            ("phone-en.png", "en", {"width": 390, "height": 844}),
        ):
            page = await browser.new_page(viewport=size, locale="ko-KR")
            await page.goto(url)
            await page.get_by_test_id("verdict").wait_for()
            item = page.locator(f"[data-testid=queue-item][data-image-id='{image_id}']")
            if await item.count():  # a phone shows no queue
                await item.first.click()
            await page.get_by_test_id(f"language-{language}").click()
            await page.wait_for_timeout(1500)  # pictures and thumbnails of the first view
            await page.screenshot(path=HERE / name)
            shrink(HERE / name)
        await browser.close()


def shrink(path: Path) -> None:
    """Reduce a screenshot to 256 colours, a third of its size.

    A palette made of the picture alone gives all its entries to the large photographs and turns
    the small coloured signs grey; so the colours that mean something have entries of their own.
    """
    image = Image.open(path).convert("RGB")
    rest = image.quantize(256 - len(MEANT), method=Image.Quantize.MEDIANCUT).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(value for colour in MEANT for value in colour), *rest][: 3 * 256])
    reduced = image.quantize(palette=palette, dither=Image.Dither.NONE)
    reduced.save(path, optimize=True)


if __name__ == "__main__":
    asyncio.run(main())
