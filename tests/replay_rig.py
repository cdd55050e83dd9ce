"""All that a replay must leave alone, as one value; and the command, run as people run it."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio import create_subprocess_exec, subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import create_async_engine

from adapters.kafka.admin import open_admin
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.reader import KafkaOpenReader
from adapters.sql.tables import metadata
from app.replay.diff_run import diff_replays
from app.replay.request import Request, Version
from app.replay.run import Replay, open_side
from app.resources import open_store
from app.settings import KafkaSettings, Settings
from schemas.codec import decode
from schemas.event import Event
from schemas.topics import TOPICS

Json = dict[str, Any]

VERSION = ("bank", "threshold", "revision", "model", "every")


async def live_state(settings: Settings, servers: str) -> Json:
    """Groups' positions, the topics' ends, rows of every table, every object but replays'."""
    connection = KafkaConnection(servers)
    async with open_admin(connection) as admin:
        ends = await admin.log_ranges(list(TOPICS))
    async with open_store(settings) as store:
        objects = {
            stat.key: (stat.size_bytes, stat.modified_at)
            async for stat in store.list("")
            if not stat.key.startswith("replays/")
        }
    return {
        "groups": await _groups(servers),
        "ends": {place: held.end for place, held in ends.items()},
        "rows": await _rows(settings.database_url),
        "objects": objects,
    }


async def _groups(servers: str) -> Json:
    client = AIOKafkaAdminClient(bootstrap_servers=servers)
    await client.start()
    try:
        names = sorted(str(row[0]) for row in await client.list_consumer_groups())
        return {name: await client.list_consumer_group_offsets(name) for name in names}
    finally:
        await client.close()


async def _rows(database_url: str) -> dict[str, int]:
    engine = create_async_engine(database_url)
    async with engine.connect() as link:
        counts = {
            name: int((await link.execute(select(func.count()).select_from(table))).scalar_one())
            for name, table in metadata.tables.items()
        }
    await engine.dispose()
    return counts


async def events_in(servers: str, topic: str) -> dict[str, Event]:
    """Events of a topic by id; fails if one is there twice."""
    found: dict[str, Event] = {}
    async with (
        KafkaOpenReader(KafkaConnection(servers))([topic]) as reader,
        asyncio.timeout(60),
    ):
        ends = await reader.end_offsets()
        left = sum(ends.values())
        while left:
            for record in await reader.poll(500, 0.5):
                left -= 1
                event = decode(record)
                assert str(event.event_id) not in found
                found[str(event.event_id)] = event
    return found


def comparable(event: Event) -> Json:
    """An event without its times and the keys of objects."""
    return event.model_dump(mode="json", exclude={"occurred_at", "timings_ms", "heatmap_key"})


class Command:
    """`lineside` against one plant."""

    def __init__(self, settings: Settings, servers: str) -> None:
        self.servers = servers
        kafka = KafkaSettings(bootstrap_servers=servers)
        self.settings = settings.model_copy(update={"kafka": kafka})
        self._environment = {
            **os.environ,
            "LINESIDE_STATE_DIR": str(settings.state_dir),
            "LINESIDE_KAFKA__BOOTSTRAP_SERVERS": servers,
        }

    @asynccontextmanager
    async def started(self, *arguments: str) -> AsyncIterator[subprocess.Process]:
        """Start it; what still runs at the end is killed."""
        process = await create_subprocess_exec(
            sys.executable, "-m", "app.cli", *arguments,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self._environment,
            cwd=Path(__file__).parents[1],
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def replay(self, name: str, stage: str = "anomaly", **options: Any) -> Json:
        """Replay in this process, which has its model loaded already."""
        version = {key: options.pop(key) for key in VERSION if key in options}
        request = Request(name, stage, version=Version(**version), **options)
        return await Replay(self.settings, request, lambda *_: None).run()

    async def diff(self, a: str, b: str, *, limit: int = 20, with_reviews: bool = False) -> Json:
        """Compare in this process."""
        return await diff_replays(
            self.settings, a, b, limit=limit, with_reviews=with_reviews, show=lambda *_: None
        )

    async def list(self) -> list[Json]:
        """List replays in this process."""
        async with AsyncExitStack() as stack:
            _, side = await open_side(self.settings, stack)
            return await side.list()

    async def run(self, *arguments: str, code: int = 0) -> str:
        """Run it to its end; returns its stdout."""
        async with self.started(*arguments) as process:
            out, err = await process.communicate()
        assert process.returncode == code, f"{process.returncode}: {out!r} {err.decode()}"
        return out.decode()
