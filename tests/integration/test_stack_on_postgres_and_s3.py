from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from minio import Minio
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from app.resources import open_store
from app.settings import ObjectSettings
from tests.plant import PRODUCT, draw_part, plant_settings, running_plant, teach, write_product

pytestmark = [pytest.mark.needs_kafka, pytest.mark.needs_s3, pytest.mark.needs_postgres]

IMAGES = 10
BUCKET = "lineside-stack"
DATABASE = "lineside_stack"
DEADLINE_S = 90.0


async def _database(server_url: str) -> str:
    """Make a database of our own; returns its address."""
    engine = create_async_engine(server_url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as link:
        await link.execute(text(f"CREATE DATABASE {DATABASE}"))
    await engine.dispose()
    return make_url(server_url).set(database=DATABASE).render_as_string(hide_password=False)


def _bucket(facts: tuple[str, str, str]) -> ObjectSettings:
    """Make a bucket of our own; returns the settings that name it."""
    endpoint, access, secret = facts
    client = Minio(
        endpoint=urlsplit(endpoint).netloc, access_key=access, secret_key=secret, secure=False
    )
    client.make_bucket(bucket_name=BUCKET)
    return ObjectSettings(
        url=f"s3://{BUCKET}?endpoint={endpoint}",
        access_key=SecretStr(access),
        secret_key=SecretStr(secret),
    )


async def _settled(http: httpx.AsyncClient, image_ids: list[str]) -> list[dict[str, Any]]:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        views = [(await http.get(f"/v1/images/{one}")).json() for one in image_ids]
        waiting = [view["waiting_for"] for view in views if view["status"] == "pending"]
        if not waiting:
            return views
        assert time.monotonic() < deadline, f"still waiting for {waiting}"
        await asyncio.sleep(0.2)


async def _counts(url: str) -> dict[str, int]:
    """Rows by what they say, across the tables that the pipeline writes."""
    engine = create_async_engine(url)
    queries = {
        "images": "SELECT count(*) FROM images WHERE state = 'accepted'",
        "complete": "SELECT count(*) FROM images WHERE status = 'complete'",
        "embedded": "SELECT count(*) FROM inspections WHERE type = 'ImageEmbedded'",
        "scored": "SELECT count(*) FROM inspections WHERE type = 'ImageScored'",
        "told or skipped": "SELECT count(*) FROM inspections WHERE stage = 'llm'",
        "responses": "SELECT count(*) FROM response_history",
        "dead letters": "SELECT count(*) FROM dead_letters",
        "unpublished": "SELECT count(*) FROM outbox WHERE published_at IS NULL",
    }
    async with engine.connect() as link:
        counts = {
            name: int((await link.execute(text(query))).scalar_one())
            for name, query in queries.items()
        }
    await engine.dispose()
    return counts


async def test_the_whole_line_runs_on_postgresql_and_s3(
    kafka: str, s3: tuple[str, str, str], postgres_url: str, tmp_path: Path
) -> None:
    database_url = await _database(postgres_url)
    objects = await asyncio.to_thread(_bucket, s3)
    settings = plant_settings(tmp_path / "state", database_url=database_url, objects=objects)
    root = write_product(tmp_path / "data", normals=20, defects=4)
    async with (
        running_plant(settings) as running,
        httpx.AsyncClient(base_url=running.url, timeout=30, trust_env=False) as http,
    ):
        await asyncio.to_thread(teach, running.url, root)
        image_ids = []
        for number in range(IMAGES):
            answer = await http.post(
                "/v1/images",
                data={"product": PRODUCT, "part_id": f"part-{number}", "lot_id": "lot-1"},
                files={"file": ("x.jpg", draw_part(80_000 + number, defect=number % 2 == 0))},
            )
            assert answer.status_code == 202, answer.text
            image_ids.append(answer.json()["image_id"])
        views = await _settled(http, image_ids)
        stats = (await http.get("/v1/stats", params={"product": PRODUCT})).json()
        heatmap = await http.get(f"/v1/images/{image_ids[0]}/heatmap")
    assert {view["status"] for view in views} == {"complete"}
    assert [view["verdict"] for view in views[::2]] == ["NG"] * (IMAGES // 2)
    assert all(len(view["embedded"]["neighbours"]) == 4 for view in views)
    reports = [view["explained"] for view in views if view["verdict"] == "NG"]
    assert all(report["refused"] or report["report"]["citations"] for report in reports)
    assert not all(report["refused"] for report in reports)
    assert heatmap.content.startswith(b"\x89PNG")
    counts = await _counts(database_url)
    assert counts.pop("responses") == sum(view["explained"] is not None for view in views)
    assert counts == {
        **dict.fromkeys(("images", "complete", "embedded", "scored", "told or skipped"), IMAGES),
        **dict.fromkeys(("dead letters", "unpublished"), 0),
    }
    assert stats["all"]["total"] == IMAGES
    async with open_store(settings) as store:
        stored = [stat.key async for stat in store.list("images/")]
        heatmaps = [stat.key async for stat in store.list("heatmaps/")]
    assert len(stored) == len(heatmaps) == IMAGES
    # Nothing fell back to the folder that serves where nothing is configured.
    assert not (settings.state_dir / "objects").exists()
    assert not (settings.state_dir / "lineside.db").exists()
