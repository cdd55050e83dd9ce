"""Several web processes relay one outbox while they are killed or cut off: order is kept."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from adapters.clock import SystemClock
from adapters.kafka.admin import open_admin
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.reader import KafkaOpenReader
from adapters.memory.broker import MemoryBroker
from pipeline.errors import DependencyDownError
from producers.relay import Relay
from schemas.codec import decode
from schemas.images import ImageUploaded
from schemas.message import Message, Position, Record
from tests.lost_log_rig import poll
from tests.story import Story
from tests.tables import Tables, fresh_postgres, fresh_sqlite, sql_tables

VICTIM = Path(__file__).with_name("relay_victim.py")
ROOT = Path(__file__).parents[2]
ROWS = 300
KILLS = 5


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs_postgres)])
async def url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> str:
    if request.param == "sqlite":
        return await fresh_sqlite(tmp_path_factory.getbasetemp() / "template.db", tmp_path)
    return await fresh_postgres(request.getfixturevalue("postgres_url"))


class Gate:
    """A way to the broker that a test closes in the middle of a batch."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.batches: list[Sequence[Message]] = []
        self.written = 0

    async def publish(self, messages: Sequence[Message]) -> Sequence[Position]:
        self.batches.append(messages)
        await self.is_open.wait()
        places = await self._broker.publish(messages)
        self.written += 1
        return places


@asynccontextmanager
async def relaying(tables: Tables, sink: Gate) -> AsyncIterator[Relay]:
    relay = Relay(tables.outbox, sink, clock=SystemClock(), batch=5, poll_s=0.02)
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def append(tables: Tables, count: int, prefix: str = "P") -> list[Story]:
    stories = [Story(f"{prefix}-{n}", station=f"S{n % 4}") for n in range(count)]
    await tables.outbox.append([story.uploaded for story in stories])
    return stories


def firsts_in_order(records: Sequence[Record], expected: Sequence[Story]) -> bool:
    """Whether, per key, events appear for the first time in the order of the outbox."""
    wanted: dict[str, list[str]] = defaultdict(list)
    seen: dict[str, dict[str, None]] = defaultdict(dict)
    known = {story.image_id for story in expected}
    for story in expected:
        wanted[str(story.subject.station)].append(story.image_id)
    for record in records:
        event = decode(record)
        if isinstance(event, ImageUploaded) and event.subject.image_id in known:
            seen[str(event.subject.station)].setdefault(event.subject.image_id)
    return {key: list(ids) for key, ids in seen.items()} == dict(wanted)


@pytest.mark.needs_postgres
async def test_a_relay_whose_session_is_gone_stops_and_what_it_had_in_flight_changes_no_order(
    postgres_url: str,
) -> None:
    url = await fresh_postgres(postgres_url)
    broker = MemoryBroker(SystemClock(), partitions=1)
    old_way, new_way = Gate(broker), Gate(broker)
    async with sql_tables(url) as old, sql_tables(url) as new:
        stories = await append(old, 20)
        old_way.is_open.clear()
        async with relaying(old, old_way) as relay:
            await poll(lambda: _true(len(old_way.batches) == 1), "the first batch is on its way")
            await end_sessions_with_leases(url)
            new_way.is_open.clear()
            async with relaying(new, new_way):
                await poll(lambda: _true(len(new_way.batches) == 1), "the lease went over")
                # The old one's batch arrives; it must not go on to the next beside the new one.
                old_way.is_open.set()
                await poll(lambda: _true("lease" in "".join(relay.not_ready())), "the old stops")
                assert (len(old_way.batches), old_way.written) == (1, 1)
                new_way.is_open.set()
                await poll(lambda: _sent(new), "everything is published")
        assert len(old_way.batches) == 1
    assert firsts_in_order(broker.records("images.uploaded"), stories)


async def _true(value: bool) -> bool:  # noqa: FBT001 - a condition that is known already
    return value


async def _sent(tables: Tables) -> bool:
    return not await tables.outbox.pending(1)


async def end_sessions_with_leases(url: str) -> None:
    """Do what a database that restarts, or a network that breaks, does to a relay."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks "
            "WHERE locktype = 'advisory' AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    finally:
        await connection.close()


async def test_a_lock_file_that_was_removed_ends_the_lease(tmp_path: Path) -> None:
    url = await fresh_sqlite(tmp_path / "template.db", tmp_path)
    async with sql_tables(url) as one, sql_tables(url) as two, one.outbox.lease() as lease:
        await lease.check()
        os.remove(url.removeprefix("sqlite+aiosqlite:///") + ".relay.lock")  # noqa: PTH107 - a test may block its loop
        async with two.outbox.lease() as other:
            await other.check()
            with pytest.raises(DependencyDownError):
                await lease.check()


@pytest.mark.needs_kafka
async def test_relays_that_are_killed_and_cut_off_in_turn_publish_in_order_and_lose_nothing(
    url: str, kafka: str
) -> None:
    chance = random.Random(os.environ.get("LINESIDE_CHAOS_SEED", "relays"))
    async with open_admin(KafkaConnection(kafka)) as admin:
        await admin.apply_topics(partitions=3, replication_factor=1)
    processes = [await _start(url, kafka) for _ in range(2)]
    stories: list[Story] = []
    try:
        async with sql_tables(url) as tables:
            kills = 0
            while len(stories) < ROWS or kills < KILLS:
                stories += await append(tables, 6, uuid4().hex)
                if len(stories) >= ROWS * (kills + 1) / (KILLS + 1) and kills < KILLS:
                    kills += 1
                    await _strike(url, kafka, processes, chance)
                await asyncio.sleep(chance.uniform(0.0, 0.05))
            await poll(lambda: _sent(tables), "the outbox is empty")
    finally:
        for process in processes:
            process.kill()
            await process.wait()
    assert firsts_in_order(await _read_all(kafka), stories)


async def _strike(
    url: str, kafka: str, processes: list[asyncio.subprocess.Process], chance: random.Random
) -> None:
    """Kill one process, or take its session away where there is one, while rows wait."""
    if url.startswith("postgresql") and chance.random() < 0.5:
        await end_sessions_with_leases(url)
        return
    index = chance.randrange(len(processes))
    processes[index].kill()
    await processes[index].wait()
    processes[index] = await _start(url, kafka)


async def _start(url: str, kafka: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, str(VICTIM), url, kafka, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )


async def _read_all(kafka: str) -> list[Record]:
    found: list[Record] = []
    async with KafkaOpenReader(KafkaConnection(kafka))(["images.uploaded"]) as reader:
        ends = sum((await reader.end_offsets()).values())
        while len(found) < ends:
            found.extend(await reader.poll(500, 1.0))
    return found
