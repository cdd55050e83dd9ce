from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from adapters.telemetry import PrometheusTelemetry
from console.problems import install_problem_handlers
from pipeline.errors import DependencyDownError, RefusedError
from pipeline.housekeeping import OutboxBacklog
from producers.camera import Camera, Picture, SendOptions
from producers.folder_watch import FolderWatcher, WatchOptions
from producers.ingest import Capture, Ingest
from producers.room import Room, RoomLimits
from producers.upload_api import UploadGate, build_router
from tests.ingest_rig import IngestRig, picture

LIMITS = RoomLimits(rows=3, free_bytes=1000, keep_s=3600)


class Rig(IngestRig):
    """A way in whose room a test sets."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.free = 5000
        self.is_broker_away = False
        self.telemetry = PrometheusTelemetry()

    def room(self, limits: RoomLimits = LIMITS) -> Room:
        return Room(
            self.outbox,
            lambda: self.free,
            clock=self.clock,
            limits=limits,
            broker_away=lambda: self.is_broker_away,
            telemetry=self.telemetry,
        )

    def limited(self, room: Room) -> Ingest:
        ports = self.ports()
        return Ingest(type(ports)(**{**_fields(ports), "check_room": room.check}))

    def measured(self, name: str) -> float:
        lines = self.telemetry.exposition().decode().splitlines()
        return next(float(x.split(" ")[-1]) for x in lines if x.startswith(f"lineside_{name}"))


def _fields(ports: Any) -> dict[str, Any]:
    return {name: getattr(ports, name) for name in type(ports).__dataclass_fields__}


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def take(ingest: Ingest, number: int) -> None:
    await ingest.accept(picture(number), Capture(product="bearing"))


async def test_the_outbox_grows_visibly_to_its_limit_and_then_uploads_get_507(rig: Rig) -> None:
    room = rig.room()
    ingest = rig.limited(room)
    for number in range(3):
        await take(ingest, number)
        await room.look()
        assert rig.measured("outbox_pending") == number + 1
    assert room.not_ready() != []
    with pytest.raises(RefusedError, match="OUTBOX_LIMIT_ROWS") as caught:
        await take(ingest, 9)
    assert (caught.value.status, caught.value.slug) == (507, "outbox_full")
    assert caught.value.retry_after_s
    assert rig.objects.keys() == sorted(rig.objects.keys())
    assert len(rig.objects.keys()) == 3
    (first, *_) = await rig.outbox.pending(10)
    await rig.outbox.mark_published({first.row_id: (await rig.broker.publish([first.message]))[0]})
    await room.look()
    await take(ingest, 9)
    assert room.not_ready() == []


async def test_the_age_of_the_oldest_waiting_row_is_measured(rig: Rig) -> None:
    room = rig.room()
    await room.look()
    assert rig.measured("outbox_oldest_seconds") == 0

    class Old:
        async def backlog(self) -> OutboxBacklog:
            return OutboxBacklog(1, rig.clock.now() - timedelta(seconds=90))

        async def prune(self, before: datetime, limit: int) -> int:
            return 0

    await Room(Old(), lambda: 1, clock=rig.clock, telemetry=rig.telemetry).look()
    assert rig.measured("outbox_oldest_seconds") == 90


async def test_uploads_get_507_before_the_disk_is_full(rig: Rig) -> None:
    room = rig.room()
    ingest = rig.limited(room)
    await take(ingest, 1)
    rig.free = 999
    await room.look()
    assert rig.measured("disk_free_bytes") == 999
    with pytest.raises(RefusedError, match="free space") as caught:
        await take(ingest, 2)
    assert (caught.value.status, caught.value.slug) == (507, "disk_nearly_full")
    rig.free = 5000
    await room.look()
    await take(ingest, 2)


async def test_a_broker_outage_is_bridged_or_refused_as_the_policy_says(rig: Rig) -> None:
    rig.is_broker_away = True
    await take(rig.limited(rig.room()), 1)
    strict = rig.limited(rig.room(RoomLimits(accept_without_broker=False)))
    with pytest.raises(RefusedError) as caught:
        await take(strict, 2)
    assert (caught.value.status, caught.value.slug) == (503, "broker_away")
    assert caught.value.retry_after_s
    rig.is_broker_away = False
    await take(strict, 2)


async def test_published_rows_are_pruned_and_a_database_outage_is_survived(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest = rig.ingest()
    for number in range(3):
        await take(ingest, number)
    rows = await rig.outbox.pending(2)
    places = await rig.broker.publish([row.message for row in rows])
    where = zip(rows, places, strict=True)
    await rig.outbox.mark_published({row.row_id: place for row, place in where})
    # Rows carry the real time; the room's clock stands in the past of another year.
    ahead = (datetime.now(UTC) - rig.clock.now()).total_seconds() + 7200
    original, failures = rig.outbox.backlog, [DependencyDownError("database", "away")]

    async def backlog() -> OutboxBacklog:
        if failures:
            raise failures.pop()
        return await original()

    monkeypatch.setattr(rig.outbox, "backlog", backlog)
    room = rig.room()
    await rig.clock.advance(ahead)
    task = asyncio.create_task(room.run())
    await rig.clock.advance(5)
    while len(await rig.outbox.pending(10)) + rig.measured("outbox_pending") != 2:
        await asyncio.sleep(0.001)  # the disk is looked at in a thread
        await rig.clock.advance(1)
    await rig.clock.advance(5)
    assert await rig.outbox.prune(datetime.now(UTC) + timedelta(hours=9), 10) == 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_disk_is_watched_while_a_long_history_is_pruned(rig: Rig) -> None:
    class Old:
        left = 300

        async def backlog(self) -> OutboxBacklog:
            return OutboxBacklog(0, None)

        async def prune(self, before: datetime, limit: int) -> int:
            assert before < rig.clock.now()
            self.left -= 1
            return limit if self.left > 0 else 0

    old = Old()
    room = Room(old, lambda: rig.free, clock=rig.clock, limits=LIMITS)
    task = asyncio.create_task(room.run())
    await pass_time_until(rig, lambda: old.left < 300)
    rig.free = 1
    await pass_time_until(rig, lambda: bool(room.not_ready()))
    assert old.left > 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_disk_that_cannot_be_asked_ends_no_role(rig: Rig) -> None:
    is_gone = True

    def free_bytes() -> int:
        if is_gone:
            raise FileNotFoundError("unmounted")
        return 1

    room = Room(rig.outbox, free_bytes, clock=rig.clock, limits=LIMITS)
    task = asyncio.create_task(room.run())
    await pass_time_until(rig, lambda: rig.clock.monotonic() > 5)
    assert not task.done()
    is_gone = False
    await pass_time_until(rig, lambda: bool(room.not_ready()))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def pass_time_until(rig: Rig, condition: Callable[[], bool]) -> None:
    """Let time pass until then; the disk is looked at in a thread."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)
            await rig.clock.advance(0.05)


async def test_a_camera_waits_out_every_kind_of_overload_and_drops_nothing(rig: Rig) -> None:
    room, gate = rig.room(), UploadGate(max_requests=1)
    app = FastAPI()
    app.include_router(build_router(rig.limited(room), gate, rig.telemetry))
    install_problem_handlers(app)
    rig.free = 1
    await room.look()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://lineside") as client:
        camera = Camera(client, clock=rig.clock, options=SendOptions(patience_s=300))
        pictures = [Picture(f"{n}", picture(n), {"product": "bearing"}) for n in range(3)]
        sending = [asyncio.create_task(camera.send(one)) for one in pictures]
        await rig.clock.advance(100)
        assert not any(task.done() for task in sending)
        rig.free = 5000
        await room.look()
        async with asyncio.timeout(10):
            while not all(task.done() for task in sending):
                await rig.clock.advance(1)
                await asyncio.sleep(0)
    assert all(task.result().accepted for task in sending)
    assert len(rig.tables.accepted()) == 3


async def test_the_folder_watcher_waits_for_room_and_takes_every_file(
    rig: Rig, tmp_path: Any
) -> None:
    folder = tmp_path / "bearing"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(picture(number))
    room = rig.room()
    rig.free = 1
    await room.look()
    watcher = FolderWatcher(
        rig.limited(room), tmp_path, clock=rig.clock, options=WatchOptions(settle_s=0.0)
    )
    for _ in range(3):
        assert await watcher.scan_once() == 0
    assert rig.tables.accepted() == []
    rig.free = 5000
    await room.look()
    assert await watcher.scan_once() == 3
    assert len(list(folder.iterdir())) == 3


async def test_uploads_are_counted_by_outcome_as_the_tables_and_answers_say(rig: Rig) -> None:
    room = rig.room()
    app = FastAPI()
    app.include_router(build_router(rig.limited(room), UploadGate(), rig.telemetry))
    install_problem_handlers(app)
    transport = httpx.ASGITransport(app)
    answers: dict[str, int] = {}
    async with httpx.AsyncClient(transport=transport, base_url="http://lineside") as client:

        async def send(data: bytes, product: str = "bearing", **headers: str) -> None:
            answer = await client.post(
                "/v1/images",
                data={"product": product},
                files={"file": ("a.png", data)},
                headers=headers,
            )
            body = answer.json()
            outcome = body.get("slug") or ("duplicate" if body["duplicate"] else "accepted")
            answers[outcome] = answers.get(outcome, 0) + 1

        for number in (1, 2, 3, 3):
            await send(picture(number), **{"Idempotency-Key": str(number)})
        await send(b"no picture")
        await send(picture(1), product="nobody")
        await send(picture(1), product="a/b")
        await room.look()
        await send(picture(4))
    lines = rig.telemetry.exposition().decode().splitlines()
    counted = {
        line.split('"')[1]: int(float(line.rpartition(" ")[2]))
        for line in lines
        if line.startswith("lineside_uploads_total{")
    }
    assert counted == answers
    assert counted["accepted"] == len(rig.tables.accepted()) == 3
    assert set(counted) == {
        "accepted", "duplicate", "not_an_image", "unknown_product", "invalid_fields", "outbox_full",
    }  # fmt: skip
