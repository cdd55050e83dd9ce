"""A small plant for system tests: a product of drawn parts, and a system that runs for real."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from app.client import Client
from app.data_folder import read_data_folder
from app.importing import import_product, whole_folder
from app.roles import ROLES
from app.settings import DatabaseSettings, ObjectSettings, Settings, WebSettings
from app.up import Running, free_port, running_system

PRODUCT = "병뚜껑"
MANUAL = """---
title: 병뚜껑 검사 지침
revision: B
language: ko
---

# 1. 긁힘

## 증상

뚜껑 윗면에 어두운 선형 긁힘이 보인다.

## 즉시 조치

긁힘이 보이는 부품을 격리하고 라인을 3분 동안 멈춘다.

## 원인

이송 가이드의 마모로 윗면이 긁힌다.

## 점검

이송 가이드의 간격이 2.5 mm 이하인지 확인한다.

## 시정 조치

마모된 이송 가이드를 교체하고 나사를 4 N·m로 조인다.

## 재발 방지

이송 가이드를 매주 점검하고 기록한다.

## 안전

가이드를 만지기 전에 전원을 차단하고 잠금 장치를 건다.
"""


def draw_part(seed: int, *, defect: bool = False, size: tuple[int, int] = (320, 240)) -> bytes:
    """Return a JPEG of a round cap on a grey table, with a dark scratch when `defect`."""
    chance = np.random.default_rng(seed)
    width, height = size
    noise = chance.normal(0, 4, (height, width))
    image = Image.fromarray(np.clip(120 + noise, 0, 255).astype(np.uint8), "L").convert("RGB")
    pen = ImageDraw.Draw(image)
    x, y = width / 2 + chance.uniform(-4, 4), height / 2 + chance.uniform(-4, 4)
    radius = height * 0.38
    tone = int(chance.integers(176, 190))
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(tone, tone, tone - 8))
    inner = radius * 0.7
    pen.ellipse((x - inner, y - inner, x + inner, y + inner), outline=(140, 140, 132), width=2)
    if defect:
        angle = chance.uniform(0, np.pi)
        reach = radius * 0.45
        dx, dy = reach * np.cos(angle), reach * np.sin(angle)
        pen.line((x - dx, y - dy, x + dx, y + dy), fill=(40, 36, 34), width=4)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def write_product(root: Path, *, normals: int = 30, defects: int = 6) -> Path:
    """Write a data folder with one product, its manual and its policy (everything automatic)."""
    folder = root / PRODUCT
    for part in ("normal", "defect", "manuals"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(normals):
        path = folder / "normal" / f"{PRODUCT}_normal_{number:03}.jpg"
        path.write_bytes(draw_part(number))
    for number in range(defects):
        path = folder / "defect" / f"{PRODUCT}_긁힘_{number:03}.jpg"
        path.write_bytes(draw_part(10_000 + number, defect=True))
    (folder / "manuals" / "guide.ko.md").write_text(MANUAL, "utf-8")
    (folder / "product.json").write_text(
        '{"display_name": "병뚜껑", "display_name_en": "Bottle cap", '
        '"policy": {"anomaly": "auto", "report": "auto"}, "defect_types": '
        '[{"code": "scratch", "name_ko": "긁힘", "name_en": "Scratch"}]}',
        "utf-8",
    )
    return root


def teach(url: str, root: Path) -> None:
    """Import a data folder into a running system, bank included."""
    with Client(url) as client:
        for folder in read_data_folder(root):
            import_product(client, whole_folder(folder), lambda *_: None)


def plant_settings(
    state_dir: Path, *, database_url: str | None = None, objects: ObjectSettings | None = None
) -> Settings:
    """Settings of a system of its own: free ports, one state folder."""
    return Settings(
        state_dir=state_dir,
        web=WebSettings(port=free_port()),
        database=DatabaseSettings.model_validate({"url": database_url}),
        objects=objects or ObjectSettings(),
    )


@asynccontextmanager
async def running_plant(
    settings: Settings,
    *,
    environment: dict[str, str] | None = None,
    roles: Sequence[str] = tuple(ROLES),
) -> AsyncIterator[Running]:
    """Run every role for real, as child processes."""
    variables = dict(environment or {})
    if settings.database.url:
        variables["LINESIDE_DATABASE__URL"] = settings.database.url.get_secret_value()
    if settings.objects.url:
        assert settings.objects.access_key
        assert settings.objects.secret_key
        variables["LINESIDE_OBJECTS__URL"] = settings.objects.url
        variables["LINESIDE_OBJECTS__ACCESS_KEY"] = settings.objects.access_key.get_secret_value()
        variables["LINESIDE_OBJECTS__SECRET_KEY"] = settings.objects.secret_key.get_secret_value()
    async with running_system(settings, environment=variables, roles=roles) as running:
        yield running
