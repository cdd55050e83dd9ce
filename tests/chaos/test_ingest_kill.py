"""SIGKILL on the way in, on a real file system and a real SQLite."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from adapters.clock import SystemClock
from adapters.memory.broker import MemoryBroker
from adapters.objects import open_objects
from adapters.sql.catalog import SqlCatalog
from adapters.sql.engine import open_database
from adapters.sql.inspections import SqlInspections
from adapters.sql.outbox import SqlOutbox
from producers.ingest import Ingest, IngestPorts
from producers.relay import Relay
from producers.sweep import Sweep
from schemas.codec import decode
from tests.chaos.ingest_victim import CAPTURE, database_url, prepare
from tests.feed_rig import until
from tests.ingest_rig import picture

VICTIM = Path(__file__).with_name("ingest_victim.py")
ROOT = Path(__file__).parents[2]


async def run_and_die(state: Path, method: str, when: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(VICTIM),
        str(state),
        method,
        when,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
    )
    async with asyncio.timeout(60):
        assert await process.wait() == -signal.SIGKILL


async def finish(state: Path, *, send_again: bool) -> tuple[MemoryBroker, int]:
    """Do what the next process does; returns the topic and how many objects there are."""
    clock = SystemClock()
    broker = MemoryBroker(clock)
    async with (
        open_objects((state / "objects").as_uri()) as objects,
        open_database(database_url(state)) as database,
    ):
        outbox = SqlOutbox(database, source="/test")
        if send_again:
            ports = IngestPorts(
                store=objects,
                bucket=objects.bucket,
                outbox=outbox,
                catalog=SqlCatalog(database),
                find_image=SqlInspections(database).get,
                clock=clock,
            )
            await Ingest(ports).accept(picture(), CAPTURE)
        await Sweep(objects, outbox, outbox, clock=clock, older_than_s=-1).sweep_once()
        waiting = len(await outbox.pending(100))
        relay = asyncio.create_task(Relay(outbox, broker, clock=clock).run())
        await until(lambda: sum(len(broker.records(t)) for t in TOPICS) >= waiting)
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)
        assert await outbox.unfinished(clock.now(), 10) == []
        return broker, len([entry async for entry in objects.list("images/")])


TOPICS = ("images.uploaded", "products.configured")


@pytest.mark.parametrize(
    ("method", "when"),
    [
        ("reserve", "after"),
        ("put", "before"),
        ("put", "after"),
        ("append", "before"),
        ("append", "after"),
        ("publish", "before"),
        ("publish", "after"),
        ("mark_published", "before"),
    ],
)
async def test_a_kill_at_any_step_ends_with_exactly_one_image(
    tmp_path: Path, method: str, when: str
) -> None:
    await prepare(tmp_path)
    await run_and_die(tmp_path, method, when)
    broker, objects = await finish(tmp_path, send_again=True)
    events = [decode(record) for record in broker.records("images.uploaded")]
    assert len({event.event_id for event in events}) == 1
    assert objects == 1


async def test_bytes_that_were_stored_are_published_even_if_the_sender_never_comes_back(
    tmp_path: Path,
) -> None:
    await prepare(tmp_path)
    await run_and_die(tmp_path, "append", "before")
    broker, _ = await finish(tmp_path, send_again=False)
    assert len(broker.records("images.uploaded")) == 1
