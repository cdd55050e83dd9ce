from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.errors import DependencyDownError
from producers.folder_watch import FolderWatcher, WatchOptions
from tests.ingest_rig import IngestRig, picture


@pytest.fixture
def rig() -> IngestRig:
    return IngestRig()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in" / "bearing").mkdir(parents=True)
    return tmp_path / "in"


def watch(rig: IngestRig, folder: Path, product: str | None = None) -> FolderWatcher:
    options = WatchOptions(product=product, source="cell-3", settle_s=2.0)
    return FolderWatcher(rig.ingest(), folder, clock=rig.clock, options=options)


def write(rig: IngestRig, path: Path, data: bytes, *, age_s: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    touch(rig, path, age_s=age_s)


def touch(rig: IngestRig, path: Path, *, age_s: float = 0.0) -> None:
    stamp = (rig.clock.now() - timedelta(seconds=age_s)).timestamp()
    os.utime(path, (stamp, stamp))


async def scan(rig: IngestRig, watcher: FolderWatcher, times: int = 4) -> int:
    taken = 0
    for _ in range(times):
        taken += await watcher.scan_once()
        await rig.clock.advance(1.0)
    return taken


async def test_a_complete_picture_is_taken_once_with_what_the_folder_tells(
    rig: IngestRig, folder: Path
) -> None:
    write(rig, folder / "bearing" / "1.png", picture())
    watcher = watch(rig, folder)
    assert await scan(rig, watcher, 8) == 1
    (row,) = rig.tables.accepted()
    assert (row.subject.product, row.subject.source) == ("bearing", "cell-3")
    assert row.subject.time_quality == "assumed"
    assert not row.subject.is_historical
    assert (folder / "bearing" / "1.png").exists()


async def test_a_half_written_file_waits_until_it_is_whole(rig: IngestRig, folder: Path) -> None:
    path, data = folder / "bearing" / "1.png", picture(side_px=64)
    watcher = watch(rig, folder)
    for part in (0.2, 0.5, 0.8):
        write(rig, path, data[: int(len(data) * part)])
        assert await scan(rig, watcher, 1) == 0
    write(rig, path, data)
    assert await scan(rig, watcher) == 1
    assert watcher.refused == []


async def test_files_that_lay_there_before_are_taken_and_marked_as_history(
    rig: IngestRig, folder: Path
) -> None:
    for number in range(3):
        write(rig, folder / "bearing" / f"{number}.png", picture(number), age_s=86_400)
    assert await scan(rig, watch(rig, folder), 1) == 3
    assert all(row.subject.is_historical for row in rig.tables.accepted())


async def test_a_restart_takes_nothing_twice(rig: IngestRig, folder: Path) -> None:
    write(rig, folder / "bearing" / "1.png", picture())
    await scan(rig, watch(rig, folder))
    await scan(rig, watch(rig, folder))
    assert len(rig.tables.accepted()) == 1
    assert len(await rig.outbox.pending(10)) == 1


async def test_a_file_that_is_renamed_is_taken_once(rig: IngestRig, folder: Path) -> None:
    write(rig, folder / "bearing" / "1.png.part", picture())
    watcher = watch(rig, folder)
    assert await scan(rig, watcher) == 0
    (folder / "bearing" / "1.png.part").rename(folder / "bearing" / "1.png")
    assert await scan(rig, watcher) == 1
    (folder / "bearing" / "1.png").rename(folder / "bearing" / "archived.png")
    assert await scan(rig, watcher) == 0
    assert len(rig.tables.accepted()) == 1


async def test_a_file_name_used_again_for_the_next_part_is_another_image(
    rig: IngestRig, folder: Path
) -> None:
    watcher, path = watch(rig, folder), folder / "bearing" / "latest.png"
    write(rig, path, picture(1))
    assert await scan(rig, watcher) == 1
    write(rig, path, picture(1))
    assert await scan(rig, watcher) == 1
    assert len(rig.tables.accepted()) == 2


async def test_what_is_no_picture_is_reported_once_and_left(
    rig: IngestRig, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(rig, folder / "bearing" / "bad.jpg", b"text")
    write(rig, folder / "bearing" / "notes.txt", b"text")
    write(rig, folder / "no such/code!" / "1.png", picture(2))
    write(rig, folder / "bearing" / ".hidden.png", picture(3))
    write(rig, folder / "bearing" / "good.png", picture(4))
    assert await scan(rig, watch(rig, folder), 10) == 1
    reports = [record for record in caplog.records if record.action == "file_refused"]  # type: ignore[attr-defined] # set by `extra`
    assert sorted(record.path for record in reports) == ["bearing/bad.jpg", "no such/code!/1.png"]  # type: ignore[attr-defined] # as above
    assert (folder / "bearing" / "bad.jpg").read_bytes() == b"text"


async def test_a_picture_that_is_mended_is_taken(rig: IngestRig, folder: Path) -> None:
    path, watcher = folder / "bearing" / "1.png", watch(rig, folder)
    write(rig, path, picture()[:-50])
    assert await scan(rig, watcher) == 0
    assert watcher.refused == ["bearing/1.png"]
    write(rig, path, picture())
    assert await scan(rig, watcher) == 1
    assert watcher.refused == []


async def test_pictures_of_a_product_that_is_set_up_later_are_not_lost(
    rig: IngestRig, folder: Path
) -> None:
    write(rig, folder / "washer" / "1.png", picture())
    watcher = watch(rig, folder)
    assert await scan(rig, watcher) == 0
    rig.configure("washer")
    assert await scan(rig, watcher) == 1


async def test_an_outage_delays_and_loses_nothing(rig: IngestRig, folder: Path) -> None:
    write(rig, folder / "1.png", picture())
    rig.objects.fail("put", DependencyDownError("objects", "away"), times=3)
    assert await scan(rig, watch(rig, folder, product="bearing"), 8) == 1


async def test_links_are_not_followed(rig: IngestRig, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    write(rig, tmp_path / "elsewhere" / "1.png", picture())
    (folder / "bearing" / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "bearing" / "1.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    assert await scan(rig, watch(rig, folder)) == 0


async def test_a_folder_that_is_away_is_told_and_watched_again_when_it_is_back(
    rig: IngestRig, folder: Path
) -> None:
    watcher = watch(rig, folder)
    away = folder.rename(folder.with_name("away"))  # noqa: ASYNC240 - nobody else runs
    task = asyncio.create_task(watcher.run())
    try:
        async with asyncio.timeout(5):
            while not watcher.not_ready():  # noqa: ASYNC110 - polls a thread's result
                await asyncio.sleep(0.01)
        away.rename(folder)
        write(rig, folder / "bearing" / "1.png", picture(), age_s=100)
        async with asyncio.timeout(5):
            while not rig.tables.accepted():
                await rig.clock.advance(1.0)
                await asyncio.sleep(0.01)
        assert watcher.not_ready() == []
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
