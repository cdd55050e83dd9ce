"""Every worker is killed twice while it holds uncommitted work; nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import time
from pathlib import Path

import httpx
import pytest

from adapters.kafka.admin import KafkaAdmin, open_admin
from adapters.kafka.connection import KafkaConnection
from app.up import Running
from schemas.topics import topics_read_by
from tests.plant import PRODUCT, draw_part, plant_settings, running_plant, teach, write_product

IMAGES = 100
KILLS_PER_ROLE = 2
ROLES = ("embed", "anomaly", "llm", "record")
DEADLINE_S = 90.0


async def _lag(admin: KafkaAdmin, role: str) -> int:
    return sum(
        item.lag_records for item in await admin.lag(f"lineside.{role}", topics_read_by(role))
    )


async def _kill_while_busy(running: Running, admin: KafkaAdmin, role: str) -> bool:
    """SIGKILL a role; whether it then left uncommitted work behind."""
    child = running.supervisor.children[role]
    process = child.process
    if process is None or process.returncode is not None or await _lag(admin, role) == 0:
        return False
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    return await _lag(admin, role) > 0


async def _upload(http: httpx.AsyncClient, number: int) -> str:
    while True:
        answer = await http.post(
            "/v1/images",
            data={"product": PRODUCT, "part_id": f"part-{number}", "station": f"s{number % 3}"},
            files={"file": ("x.jpg", draw_part(50_000 + number, defect=number % 3 == 0))},
        )
        if answer.status_code == 202:
            return str(answer.json()["image_id"])
        assert answer.status_code in {429, 503}, answer.text
        await asyncio.sleep(float(answer.headers["Retry-After"]))


async def _kill_all(running: Running, admin: KafkaAdmin, chance: random.Random) -> dict[str, int]:
    kills = dict.fromkeys(ROLES, 0)
    deadline = time.monotonic() + DEADLINE_S
    while any(count < KILLS_PER_ROLE for count in kills.values()):
        assert time.monotonic() < deadline, f"kills that hit work so far: {kills}"
        role = chance.choice([role for role, count in kills.items() if count < KILLS_PER_ROLE])
        if await _kill_while_busy(running, admin, role):
            kills[role] += 1
        await asyncio.sleep(chance.uniform(0.02, 0.2))
    return kills


async def _complete(
    http: httpx.AsyncClient, image_ids: list[str], running: Running
) -> dict[str, dict[str, object]]:
    views: dict[str, dict[str, object]] = {}
    deadline = time.monotonic() + DEADLINE_S
    while len(views) < len(image_ids):
        for image_id in image_ids:
            if image_id not in views:
                view = (await http.get(f"/v1/images/{image_id}")).json()
                if view["status"] != "pending":
                    views[image_id] = view
        waiting = [image_id for image_id in image_ids if image_id not in views]
        if time.monotonic() > deadline:
            pytest.fail(f"{len(waiting)} images are not complete\n{await _diagnose(running)}")
        await asyncio.sleep(0.3)
    return views


async def _diagnose(running: Running) -> str:
    """Ask every role for the stacks of its tasks."""
    said = []
    for role in ROLES:
        process = running.supervisor.children[role].process
        if process and process.returncode is None:
            process.send_signal(signal.SIGUSR1)
    await asyncio.sleep(1)
    for role in ROLES:
        log = running.supervisor.state_dir / "logs" / f"{role}.log"
        lines = [line for line in log.read_text("utf-8").splitlines() if "aiokafka" not in line]
        said.append(f"== {role}\n" + "\n".join(lines[-40:]))
    return "\n".join(said)


def _double_rows(state: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(state / "lineside.db") as tables:
        return tables.execute(
            "SELECT image_id, type, count(*) FROM inspections "
            "GROUP BY image_id, type HAVING count(*) > 1"
        ).fetchall()


@pytest.mark.needs_kafka
async def test_killed_workers_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    seed = int(os.environ.get("LINESIDE_CHAOS_SEED", random.SystemRandom().randrange(2**32)))
    print(f"chaos seed {seed}")
    chance = random.Random(seed)
    settings = plant_settings(tmp_path / "state")
    root = write_product(tmp_path / "data")
    async with running_plant(settings) as running:
        await asyncio.to_thread(teach, running.url, root)
        connection = KafkaConnection(running.bootstrap_servers)
        async with (
            open_admin(connection) as admin,
            httpx.AsyncClient(base_url=running.url, timeout=30, trust_env=False) as http,
        ):
            killing = asyncio.create_task(_kill_all(running, admin, chance))
            image_ids: list[str] = []
            while len(image_ids) < IMAGES or not killing.done():
                image_ids.append(await _upload(http, len(image_ids)))
                await asyncio.sleep(chance.uniform(0.0, 0.25))
            kills = await killing
            views = await _complete(http, image_ids, running)
    print(f"{len(image_ids)} images, kills that hit uncommitted work: {kills}")
    assert len(set(image_ids)) == len(image_ids)
    assert {view["status"] for view in views.values()} == {"complete"}
    assert all(view["scored"] and view["embedded"] for view in views.values())
    assert _double_rows(tmp_path / "state") == []
