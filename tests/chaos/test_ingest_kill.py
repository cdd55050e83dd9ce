"""SIGKILL on the way in: on files and SQLite, and on PostgreSQL, S3 and Apache Kafka."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from adapters.clock import SystemClock
from adapters.kafka.admin import open_admin
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.reader import KafkaOpenReader
from adapters.memory.broker import MemoryBroker
from producers.ingest import Ingest
from producers.relay import Relay
from producers.sweep import Sweep
from schemas.codec import decode
from schemas.images import ImageUploaded
from schemas.message import Record
from tests.chaos.ingest_victim import CAPTURE, Opened, Where, on_this_machine, opened, prepare
from tests.ingest_rig import picture
from tests.tables import fresh_postgres

VICTIM = Path(__file__).with_name("ingest_victim.py")
ROOT = Path(__file__).parents[2]
STEPS = [
    ("reserve", "before"), ("reserve", "after"),
    ("put", "before"), ("put", "after"),
    ("append", "before"), ("append", "after"),
    ("publish", "before"), ("publish", "after"),
    ("mark_published", "before"), ("mark_published", "after"),
]  # fmt: skip


@pytest.fixture(
    params=[
        "files",
        pytest.param(
            "services",
            marks=[pytest.mark.needs_kafka, pytest.mark.needs_s3, pytest.mark.needs_postgres],
        ),
    ]
)
async def where(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    """A stack of the test's own, with one product."""
    if request.param == "files":
        place = on_this_machine(tmp_path)
    else:
        endpoint, access, secret = request.getfixturevalue("s3")
        kafka = request.getfixturevalue("kafka")
        async with open_admin(KafkaConnection(kafka)) as admin:
            await admin.apply_topics(partitions=3, replication_factor=1)
        place = Where(
            await fresh_postgres(request.getfixturevalue("postgres_url")),
            f"s3://kill-{uuid4().hex[:12]}?endpoint={endpoint}",
            access,
            secret,
            kafka,
        )
    await prepare(place)
    return place


async def run_and_die(where: Where, method: str, when: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(VICTIM), where.as_text(), method, when,
        cwd=ROOT, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    async with asyncio.timeout(90):
        assert await process.wait() == -signal.SIGKILL


async def finish(where: Where, *, send_again: bool) -> tuple[list[ImageUploaded], list[str]]:
    """Do what the next process does; returns the topic's uploads of the image and the objects."""
    clock = SystemClock()
    async with opened(where) as stack:
        if send_again:
            await Ingest(stack.ports).accept(picture(), CAPTURE)
        outbox = stack.outbox
        await Sweep(stack.ports.store, outbox, outbox, clock=clock, older_than_s=-1).sweep_once()
        relay = asyncio.create_task(Relay(outbox, stack.sink, clock=clock).run())
        async with asyncio.timeout(60):
            while await outbox.pending(1):  # noqa: ASYNC110 - polls a database
                await asyncio.sleep(0.02)
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)
        assert await outbox.unfinished(clock.now(), 10) == []
        objects = [entry.key async for entry in stack.ports.store.list("images/")]
        events = [decode(record) for record in await _records(where, stack)]
        return [event for event in events if isinstance(event, ImageUploaded)], objects


async def _records(where: Where, stack: Opened) -> list[Record]:
    """Uploads in the log, of this test's bucket alone."""
    if where.kafka is None:
        assert isinstance(stack.sink, MemoryBroker)
        return stack.sink.records("images.uploaded")
    found: list[Record] = []
    async with KafkaOpenReader(KafkaConnection(where.kafka))(["images.uploaded"]) as reader:
        ends = sum((await reader.end_offsets()).values())
        while len(found) < ends:
            found.extend(await reader.poll(500, 1.0))
    return [record for record in found if stack.ports.bucket.encode() in (record.value or b"")]


@pytest.mark.parametrize(("method", "when"), STEPS)
async def test_a_kill_at_any_step_ends_with_exactly_one_image(
    where: Where, method: str, when: str
) -> None:
    await run_and_die(where, method, when)
    events, objects = await finish(where, send_again=True)
    # A broker in the victim's memory took with it what was marked as published there.
    is_gone = where.kafka is None and (method, when) == ("mark_published", "after")
    assert len({event.event_id for event in events}) == (0 if is_gone else 1)
    assert len(objects) == 1


async def test_bytes_that_were_stored_are_published_even_if_the_sender_never_comes_back(
    where: Where,
) -> None:
    await run_and_die(where, "append", "before")
    events, objects = await finish(where, send_again=False)
    assert len(events) == len(objects) == 1


async def test_the_sweep_deletes_no_object_that_anything_refers_to(where: Where) -> None:
    async with opened(where) as stack:
        await Ingest(stack.ports).accept(picture(1), CAPTURE)
        await stack.ports.store.put("images/of-somebody-else", b"x", content_type="image/png")
        before = [entry.key async for entry in stack.ports.store.list("")]
    for method, when in (("reserve", "after"), ("put", "after")):
        await run_and_die(where, method, when)
        await finish(where, send_again=False)
        async with opened(where) as stack:
            after = [entry.key async for entry in stack.ports.store.list("")]
        assert set(before) <= set(after)
