"""A disk that is really full, under the objects, the tables, or both: no 202 is lost."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from adapters.clock import SystemClock
from adapters.memory.broker import MemoryBroker
from adapters.objects import open_objects
from adapters.sql.engine import migrate
from adapters.sql.inspections import SqlInspections
from pipeline.errors import RefusedError
from producers.ingest import Capture, Ingest, IngestPorts
from producers.relay import Relay
from schemas.codec import decode
from tests.ingest_rig import picture
from tests.services import missing
from tests.story import configured
from tests.tables import Tables, sql_tables

DISK_BYTES = 6_000_000
AT_ONCE = 8


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    options = f"size={DISK_BYTES}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        missing("a small disk", f"mounting one needs root: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, *, leave: int) -> Path:
    """Take the rest of the disk."""
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with suppress(OSError), ballast.open("wb") as file:
        file.write(bytes(max(0, free - leave)))
    return ballast


@pytest.mark.parametrize("full", ["objects", "tables", "both"])
async def test_a_full_disk_loses_nothing_that_was_acknowledged(
    disk: Path, tmp_path: Path, full: str
) -> None:
    tables_in = disk if full != "objects" else tmp_path
    objects_in = disk if full != "tables" else tmp_path
    url = f"sqlite+aiosqlite:///{tables_in / 'lineside.db'}"
    await migrate(url)
    clock = SystemClock()
    async with (
        open_objects((objects_in / "objects").as_uri()) as objects,
        sql_tables(url) as tables,
    ):
        await tables.outbox.append([configured(1)])
        ports = IngestPorts(
            store=objects,
            bucket=objects.bucket,
            outbox=tables.outbox,
            catalog=tables.catalog,
            find_image=tables.inspections.get,
            clock=clock,
        )
        ingest = Ingest(ports)
        accepted: dict[str, bytes] = {}
        refused: set[tuple[int, str]] = set()
        ballast = fill(disk, leave=700_000)
        number = 0
        # Many at once, so that the disk fills in the middle of one or the other.
        while len(refused) == 0 or number < 60:
            batch = [picture(number + n, side_px=40 + 20 * (n % 5)) for n in range(AT_ONCE)]
            number += AT_ONCE
            await asyncio.gather(*(_take(ingest, data, accepted, refused) for data in batch))
            assert number < 4000
        assert refused == {(507, "storage_full")}
        assert accepted
        ballast.unlink()
        late = picture(9_999)
        await _take(ingest, late, accepted, refused)
        assert late in accepted.values()
        await _everything_is_there(tables, objects, accepted)


async def _take(
    ingest: Ingest, data: bytes, accepted: dict[str, bytes], refused: set[tuple[int, str]]
) -> None:
    try:
        answer = await ingest.accept(data, Capture(product="cap", part_id=str(len(data))))
    except RefusedError as error:
        refused.add((error.status, error.slug if error.retry_after_s else "no Retry-After"))
    else:
        accepted[answer.image_id] = data


async def _everything_is_there(tables: Tables, objects: object, accepted: dict[str, bytes]) -> None:
    broker = MemoryBroker(SystemClock())
    relay = asyncio.create_task(Relay(tables.outbox, broker, clock=SystemClock()).run())
    async with asyncio.timeout(60):
        while await tables.outbox.pending(1):  # noqa: ASYNC110 - polls a database
            await asyncio.sleep(0.02)
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)
    published = {
        decode(record).subject.image_id  # type: ignore[attr-defined]  # an upload
        for record in broker.records("images.uploaded")
    }
    assert published >= set(accepted)
    assert isinstance(tables.inspections, SqlInspections)
    for image_id, data in accepted.items():
        view = await tables.inspections.get(image_id)
        assert view is not None
        key = view["subject"]["image"]["key"]
        stored = await objects.get(key)  # type: ignore[attr-defined]  # either kind of store
        assert hashlib.sha256(stored).digest() == hashlib.sha256(data).digest()
