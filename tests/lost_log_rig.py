"""A small line on a Kafka of its own whose log a test may damage: stages that only answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from aiokafka import TopicPartition as ClientPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.protocol.admin import DeleteGroupsRequest

from adapters.clock import SystemClock
from adapters.kafka.admin import open_admin
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.progress import KafkaProgress
from adapters.kafka.sink import KafkaSink
from adapters.kafka.source import GroupMember, kafka_source
from adapters.sql.unanswered import SqlUnanswered
from adapters.telemetry import PrometheusTelemetry
from consumers.record.stage import RecordStage
from pipeline.errors import LinesideError
from pipeline.reconciling import group_of
from pipeline.stage import Settled
from pipeline.telemetry import NullTelemetry
from pipeline.worker import Worker
from pipeline.worker_settings import WorkerSettings
from producers.reconciler import Reconciler, ReconcilerPace, ReconcilerPorts
from producers.relay import Relay
from schemas.anomalies import ImageScored
from schemas.codec import encode
from schemas.embeddings import ImageEmbedded
from schemas.event import Event, result_fields
from schemas.images import ImageSkipped, ImageUploaded, InspectionRequested
from schemas.topics import triggers_of
from tests.services import until
from tests.story import Story
from tests.tables import Tables

INLINE = WorkerSettings(compute="inline", drain_budget_s=2.0, priority_topics=())
STAGES = ("embed", "anomaly", "llm", "record")


class Answering:
    """A stage that says something of every event that is meant for it."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def load(self, event: Event) -> Any:
        meant: dict[str, tuple[type[Event], ...]] = {
            "embed": (ImageUploaded,),
            "anomaly": (ImageUploaded, InspectionRequested),
            "llm": (ImageScored,),
        }
        return event if isinstance(event, meant[self.name]) else Settled(None)

    def infer(self, items: Sequence[Any]) -> Sequence[Any]:
        return items

    async def save(self, _event: Event, result: Any) -> Event:
        facts = result_fields(self.name, result, datetime.now(UTC))
        if self.name == "embed":
            return ImageEmbedded(**facts, model="m", index_version="1")
        if self.name == "anomaly":
            return ImageScored(**facts, verdict="OK", reason="score", score=0.5, threshold=1.0)
        return ImageSkipped(**facts, reason="policy")


@dataclass
class LostLogRig:
    """Tables, a log, and whichever workers a test runs."""

    servers: str
    tables: Tables
    telemetry: PrometheusTelemetry = field(default_factory=PrometheusTelemetry)
    stops: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.connection = KafkaConnection(self.servers)
        self.sink = KafkaSink(self.connection, timeout_s=4.0)
        self.clock = SystemClock()

    async def apply_topics(self) -> None:
        async with open_admin(self.connection) as admin:
            await admin.apply_topics(partitions=2, replication_factor=1)

    async def start_afresh(self) -> None:
        """Leave behind what an earlier test has in the log."""
        async with open_admin(self.connection) as admin:
            for stage in STAGES:
                ranges = await admin.log_ranges(triggers_of(stage))
                ends = {place: held.end for place, held in ranges.items()}
                await admin.move_group(group_of(stage), ends)

    @asynccontextmanager
    async def running(self, *stages: str, relay: bool = True) -> AsyncIterator[None]:
        """Keep workers running as `lineside up` does, and the relay beside them."""
        tasks = [asyncio.create_task(self._keep(stage)) for stage in stages]
        if relay:
            one = Relay(self.tables.outbox, self.sink, clock=self.clock, poll_s=0.05)
            tasks.append(asyncio.create_task(one.run()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, stage: str) -> None:
        while True:
            member = GroupMember(group_of(stage), triggers_of(stage), drain_budget_s=2.0)
            known: Any = (
                RecordStage(self.tables.inspections) if stage == "record" else Answering(stage)
            )
            source = kafka_source(self.connection, member)
            worker = Worker(known, source, self.sink, self.clock, NullTelemetry(), INLINE)
            try:
                await worker.run()
            except LinesideError as error:
                self.stops.append(f"{stage}: {error}")
            await asyncio.sleep(0.3)

    @asynccontextmanager
    async def reconciling(self) -> AsyncIterator[None]:
        assert self.tables.database is not None
        ports = ReconcilerPorts(
            SqlUnanswered(self.tables.database),
            KafkaProgress(self.connection),
            self.sink,
            self.clock,
        )
        pace = ReconcilerPace(tick_s=0.2, after_s=1.0)
        one = Reconciler(ports, source="/test", pace=pace, telemetry=self.telemetry)
        task = asyncio.create_task(one.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def accept(self, count: int) -> list[Story]:
        """Take images the usual way in."""
        stories = [Story(f"P-{uuid4().hex}", station=f"S{n % 3}") for n in range(count)]
        await self.tables.outbox.append([story.uploaded for story in stories])
        return stories

    async def publish_directly(self, count: int) -> list[Story]:
        """Be a camera that only knows Kafka."""
        stories = [Story(f"D-{uuid4().hex}", station=f"S{n % 3}") for n in range(count)]
        await self.sink.publish([encode(story.uploaded, source="/mes") for story in stories])
        return stories

    async def relayed(self) -> None:
        async def done() -> bool:
            return not await self.tables.outbox.pending(1)

        await poll(done, "the relay has sent everything")

    async def complete(self, stories: Collection[Story]) -> None:
        async def done() -> bool:
            views = [await self.tables.inspections.get(story.image_id) for story in stories]
            return all(view and view["status"] == "complete" for view in views)

        await poll(done, "every image is complete")

    async def answered(self, stage: str, stories: Collection[Story]) -> None:
        field_of = {"embed": "embedded", "anomaly": "scored"}[stage]

        async def done() -> bool:
            views = [await self.tables.inspections.get(story.image_id) for story in stories]
            return all(view and view[field_of] for view in views)

        await poll(done, f"{stage} has answered")

    async def caught_up(self, stage: str) -> None:
        async def done() -> bool:
            async with open_admin(self.connection) as admin:
                rows = await admin.lag(group_of(stage), triggers_of(stage))
            return all(row.lag_records == 0 for row in rows)

        await poll(done, f"{stage} has read everything")

    # -- what happens to a log -------------------------------------------------------------

    async def recreate(self, topic: str) -> None:
        async with raw_admin(self.servers) as admin:
            await admin.delete_topics([topic])
        async with open_admin(self.connection) as ours:

            async def gone() -> bool:
                return topic not in await ours.topics()

            await poll(gone, f"{topic} is gone")
        await self.apply_topics()

    async def delete_records(self, topic: str) -> None:
        """Do what a retention that was shortened does."""
        async with open_admin(self.connection) as ours:
            ranges = await ours.log_ranges([topic])
        async with raw_admin(self.servers) as admin:
            await admin.delete_records(
                {ClientPartition(*p): RecordsToDelete(held.end) for p, held in ranges.items()}
            )

    async def forget_offsets(self, stage: str) -> None:
        """Do what `offsets.retention.minutes` does to a group that was away for long."""
        async with raw_admin(self.servers) as admin:
            node = await admin.find_coordinator(group_of(stage))
            answer = await admin._send_request(DeleteGroupsRequest([group_of(stage)]), node)
            assert [code for _, code in answer.results] == [0]


@asynccontextmanager
async def raw_admin(servers: str) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def poll(check: Any, what: str, limit_s: float = 60.0) -> None:
    """As `until`, for a condition that must be awaited."""
    deadline = asyncio.get_running_loop().time() + limit_s
    while not await check():
        if asyncio.get_running_loop().time() > deadline:
            await until(lambda: False, what, 0.0)
        await asyncio.sleep(0.05)
