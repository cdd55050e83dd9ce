"""A backlog that grew while the stages stood still, and how they drain it.

The whole system runs as `lineside up` runs it. First it learns the products; then every role is
stopped, and events that point to a few hundred stored pictures are published with append times
spread over the past, as if cameras had gone on. Then the stages start. Lag and ages come from a
client of its own: the groups' positions, and the append times that were published.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from sqlalchemy import func, select

from adapters.clock import SystemClock
from adapters.kafka.admin import KafkaAdmin, open_admin, topic_settings
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.reader import KafkaOpenReader
from adapters.sql.engine import open_database
from adapters.sql.tables import inspections
from app.bench.backlog_checks import (
    Ledger,
    Patience,
    Result,
    Sample,
    Size,
    draining,
    judge_memory,
    oldest_ms,
    report_stage,
    sizes_of,
)
from app.client import Client
from app.data_folder import read_data_folder
from app.demo.run import plan_of
from app.importing import import_product
from app.resources import open_store
from app.samples.split import split
from app.settings import Settings, WebSettings
from app.up import Running, free_port, running_system
from pipeline.errors import DependencyDownError
from pipeline.ports import EventSource
from pipeline.steady_reader import SteadyOpenReader
from schemas.codec import decode, encode
from schemas.event import uploaded_event_id
from schemas.images import ImageUploaded
from schemas.message import Record
from schemas.subject import ImageRef, Subject, image_id
from schemas.topics import TOPICS, triggers_of

Json = dict[str, Any]
Say = Callable[[str], None]

INPUT, STAGES = "images.uploaded", ("anomaly", "embed", "llm", "record")
# Topics that carry a stage's answer; ImageSkipped says whose it is.
_ANSWERS = {
    "anomaly": ("images.scored", "images.skipped", "dead-letters.anomaly"),
    "embed": ("images.embedded", "dead-letters.embed"),
    "llm": ("images.explained", "images.skipped", "dead-letters.llm"),
}
# Its events settle alone, several at once.
_UNORDERED = {"llm"}
_TEACHERS = ("web", "anomaly", "record")
_PICTURES = 300
_STATIONS = 8
_LOOK_EVERY_S = 2.0
_SHOW_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class BacklogOptions:
    """What to pile up. `rate` is how many images a second the cameras took meanwhile.

    Stages that others wait for come first, as in `STAGES`: whoever is looked at later must not
    have been empty before.
    """

    images: int
    stages: tuple[str, ...]
    root: Path
    rate: float = 1.0


@dataclass
class Backlog:
    """What was published: the order of the images, and append times by partition and offset."""

    numbers: dict[str, int] = field(default_factory=dict)
    times: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))


async def bench_backlog(folder: Path, options: BacklogOptions, say: Say) -> Json:
    """Pile up, drain and judge; returns figures per stage and whether all holds.

    Args:
        folder: an empty folder for the system's state.
        options: how much of what.
        say: told of every step and every few seconds of the drain.
    """
    settings = Settings(state_dir=folder / "state", web=WebSettings(port=free_port()))
    async with running_system(settings, roles=_TEACHERS, on_step=say) as running:
        say("teaching the products")
        await asyncio.to_thread(_teach, running.url, options.root, say)
    async with running_system(settings, roles=(), on_step=say) as running:
        connection = KafkaConnection(running.bootstrap_servers)
        say(f"publishing {options.images} images while every stage stands still")
        backlog = await _pile_up(settings, connection, options)
        for stage in options.stages:
            running.supervisor.start(stage, sys.executable, "-m", "app.cli", "worker", stage)
        say(f"starting {', '.join(options.stages)}")
        async with open_admin(connection) as admin:
            watch = _Watch(admin, running, backlog, options.stages, say)
            await watch.until_drained()
        ledgers = await _read_answers(connection, options.stages, backlog)
    reports = {
        stage: report_stage(ledger, watch.samples[stage], ordered=stage not in _UNORDERED)
        for stage, ledger in ledgers.items()
    }
    faults = [f"{stage}: {fault}" for stage, one in reports.items() for fault in one.faults]
    faults += [f"{stage} died {count} times" for stage, count in watch.deaths.items()]
    faults += [watch.trouble] if watch.trouble else []
    sizes = {stage: sizes_of(draining(samples)) for stage, samples in watch.samples.items()}
    memory = {role: judge_memory(one) for role, one in {**sizes, "broker": watch.broker}.items()}
    faults += [f"{role}: {one.fault}" for role, one in memory.items() if one.fault]
    if "record" in options.stages:
        faults += await _check_tables(settings, ledgers)
    return {
        "images": options.images,
        "taken_per_second": options.rate,
        "seconds": round(watch.elapsed_s, 1),
        "stages": {stage: asdict(one) for stage, one in reports.items()},
        "memory": {role: asdict(one) for role, one in memory.items()},
        "samples": {
            stage: [sample._asdict() for sample in samples]
            for stage, samples in watch.samples.items()
        },
        "faults": faults,
        "passed": not faults,
    }


def _teach(url: str, root: Path, say: Say) -> None:
    with Client(url) as client:
        for folder in read_data_folder(root):
            import_product(client, plan_of(root, folder), lambda *_: None)
            say(f"{folder.code} is learnt")


# -- piling up ------------------------------------------------------------------------------


async def _pile_up(
    settings: Settings, connection: KafkaConnection, options: BacklogOptions
) -> Backlog:
    pictures = await _store_pictures(settings, options.root)
    await _take_given_times(connection)
    backlog = Backlog()
    first = datetime.now(UTC) - timedelta(seconds=options.images / options.rate)
    servers = connection.bootstrap_servers
    async with AIOKafkaProducer(
        bootstrap_servers=servers, acks="all", enable_idempotence=True
    ) as producer:
        sent = []
        for number in range(options.images):
            product, image = pictures[number % len(pictures)]
            at = first + timedelta(seconds=number / options.rate)
            event = _uploaded(number, product, image, at)
            backlog.numbers[event.subject.image_id] = number
            message = encode(event, source="/lineside/bench")
            sent.append(
                await producer.send(
                    INPUT, message.value, message.key, headers=list(message.headers),
                    timestamp_ms=round(at.timestamp() * 1000),
                )
            )  # fmt: skip
        for written in await asyncio.gather(*sent):
            backlog.times[written.partition].append(written.timestamp)
    return backlog


async def _store_pictures(settings: Settings, root: Path) -> list[tuple[str, ImageRef]]:
    """Store pictures that no bank has seen, the products taking turns."""
    held_out = [
        [(folder.code, path) for path in split(root, folder.code).held_out]
        for folder in read_data_folder(root)
    ]
    files = [one for turn in zip(*held_out, strict=False) for one in turn][:_PICTURES]
    pictures = []
    async with open_store(settings) as store:
        for product, path in files:
            data = await asyncio.to_thread(path.read_bytes)
            sha256 = hashlib.sha256(data).hexdigest()
            key = f"images/{sha256}"
            await store.put(key, data, content_type="image/jpeg")
            image = ImageRef(bucket=store.bucket, key=key, sha256=sha256, size_bytes=len(data))
            pictures.append((product, image))
    return pictures


async def _take_given_times(connection: KafkaConnection) -> None:
    """Let the input topic keep the times that are sent, on this bench's own broker."""
    chosen = topic_settings(TOPICS[INPUT]) | {"message.timestamp.type": "CreateTime"}
    client = AIOKafkaAdminClient(bootstrap_servers=connection.bootstrap_servers)
    await client.start()
    try:
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, INPUT, chosen)])
    finally:
        await client.close()


def _uploaded(number: int, product: str, image: ImageRef, at: datetime) -> ImageUploaded:
    part = f"backlog-{number:06}"
    identity = image_id(product=product, sha256=image.sha256, part_id=part, captured_at=at)
    subject = Subject(
        image_id=identity,
        product=product,
        station=f"station-{number % _STATIONS}",
        part_id=part,
        captured_at=at,
        received_at=at,
        image=image,
    )
    return ImageUploaded(event_id=uploaded_event_id(identity), occurred_at=at, subject=subject)


# -- draining -------------------------------------------------------------------------------


@dataclass
class _Watch:
    """Looks at every stage from outside until all have settled everything."""

    admin: KafkaAdmin
    running: Running
    backlog: Backlog
    stages: tuple[str, ...]
    say: Say
    samples: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    broker: list[Size] = field(default_factory=list)
    deaths: dict[str, int] = field(default_factory=dict)
    trouble: str | None = None
    elapsed_s: float = 0.0

    async def until_drained(self) -> None:
        """Sample until no stage has any lag, or none gets on any more."""
        began = shown_at = time.monotonic()
        patience = Patience()
        while patience.trouble is None:
            now = time.monotonic()
            self.elapsed_s = now - began
            lag = None
            if await self._look_at_all():
                lag = sum(self.samples[stage][-1].lag_records for stage in self.stages)
            patience.note(now, lag)
            if lag is not None and (now - shown_at >= _SHOW_EVERY_S or not lag):
                shown_at = now
                self._show()
            if lag == 0:
                return
            await asyncio.sleep(_LOOK_EVERY_S)
        self.trouble = patience.trouble

    async def _look_at_all(self) -> bool:
        """Sample every stage; False where a busy broker did not answer in time."""
        try:
            looks = {stage: await self._look(stage) for stage in self.stages}
        except DependencyDownError as error:
            self.say(f"no sample: {error}")
            return False
        for stage, sample in looks.items():
            self.samples[stage].append(sample)
        if self.running.embedded_broker is not None:
            (node,) = self.running.embedded_broker.pids
            self.broker.append(Size(self.elapsed_s, _rss_mb(node)))
        return True

    async def _look(self, stage: str) -> Sample:
        rows = await self.admin.lag(f"lineside.{stage}", triggers_of(stage))
        oldest = oldest_ms(
            (
                (row.partition.partition, row.committed)
                for row in rows
                if row.partition.topic == INPUT
            ),
            self.backlog.times,
        )
        age_s = None if oldest is None else time.time() - oldest / 1000
        lag = sum(row.lag_records for row in rows)
        return Sample(self.elapsed_s, lag, age_s, self._rss_mb(stage))

    def _rss_mb(self, stage: str) -> float:
        child = self.running.supervisor.children[stage]
        if child.restarts:
            self.deaths[stage] = child.restarts
        process = child.process
        return 0.0 if process is None else _rss_mb(process.pid)

    def _show(self) -> None:
        told = []
        for stage in self.stages:
            one = self.samples[stage][-1]
            age = "-" if one.oldest_age_s is None else f"{one.oldest_age_s:.0f} s"
            rate = self._rate(stage)
            left = f"{one.lag_records / rate:.0f} s" if rate else "-"
            told.append(
                f"{stage} lag {one.lag_records} oldest {age} {rate:.1f}/s left {left} "
                f"{one.rss_mb:.0f} MB"
            )
        self.say("  ".join(told))

    def _rate(self, stage: str) -> float:
        """Records a second over the last looks."""
        recent = self.samples[stage][-10:]
        seconds = recent[-1].at_s - recent[0].at_s
        settled = recent[0].lag_records - recent[-1].lag_records
        return max(0.0, settled / seconds) if seconds else 0.0


def _rss_mb(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss) / 1e6
    except psutil.NoSuchProcess:
        return 0.0


# -- judging --------------------------------------------------------------------------------


async def _read_answers(
    connection: KafkaConnection, stages: Sequence[str], backlog: Backlog
) -> dict[str, Ledger]:
    """Read every result of the backlog's images from the log."""
    ledgers = {stage: Ledger(backlog.numbers) for stage in stages if stage in _ANSWERS}
    topics = sorted({topic for stage in ledgers for topic in _ANSWERS[stage]})
    async with AsyncExitStack() as stack:
        open_reader = SteadyOpenReader(KafkaOpenReader(connection), SystemClock())
        reader = await stack.enter_async_context(open_reader(topics))
        ends = await reader.end_offsets()
        left = {place for place, end in ends.items() if end}
        patience = Patience()
        read = 0
        while left:
            records = await _poll(reader)
            read += len(records or ())
            patience.note(time.monotonic(), None if records is None else read)
            if patience.trouble:
                raise DependencyDownError("kafka", f"no answers read back: {patience.trouble}")
            for record in records or ():
                if record.offset + 1 >= ends[record.topic_partition]:
                    left.discard(record.topic_partition)
                event: Any = decode(record)
                subject = event.subject
                ledger = ledgers.get(event.stage)
                if ledger is None or subject is None or subject.image_id not in backlog.numbers:
                    continue
                place = (record.topic, record.partition)
                ledger.results.append(
                    Result(subject.image_id, str(event.event_id), place, record.key)
                )
    return ledgers


async def _poll(reader: EventSource) -> Sequence[Record] | None:
    """Return the next records, None where a busy broker does not answer."""
    try:
        return await reader.poll(2000, 1.0)
    except DependencyDownError:
        await asyncio.sleep(_LOOK_EVERY_S)
        return None


async def _check_tables(settings: Settings, ledgers: Mapping[str, Ledger]) -> list[str]:
    """Hold the rows of the record stage against the log."""
    counted = select(
        inspections.c.stage, func.count(), func.count(inspections.c.image_id.distinct())
    ).group_by(inspections.c.stage)
    async with open_database(settings.database_url) as database:
        rows = await database.read(lambda connection: connection.execute(counted).all())
    found = {stage: (count, images) for stage, count, images in rows}
    faults = []
    for stage, ledger in ledgers.items():
        wanted = len({result.event_id for result in ledger.results})
        count, images = found.get(stage, (0, 0))
        if (count, images) != (wanted, wanted):
            faults.append(f"record: {count} rows of {images} images for {stage}, not {wanted}")
    return faults
