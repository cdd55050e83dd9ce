"""A worker on the memory broker with a clock of its own, and stages that fail as told."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from adapters.memory.broker import MemoryBroker
from adapters.memory.clock import VirtualClock
from pipeline.telemetry import NullTelemetry
from pipeline.worker import Worker
from pipeline.worker_settings import WorkerSettings
from schemas.codec import decode, encode
from schemas.dead_letters import DeadLetter
from schemas.embeddings import ImageEmbedded
from schemas.event import Event, derived_event_id, origin_of
from schemas.images import ImageUploaded, InspectionRequested
from schemas.message import Message, Record
from schemas.subject import ImageRef, Subject

GROUP = "embed"
IN, OUT, DEAD = "images.uploaded", "images.embedded", "dead-letters.embed"
INLINE = WorkerSettings(compute="inline", batch_size=4, load_concurrency=4)
_AT = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)


class ProcessDiedError(BaseException):
    """What a SIGKILL looks like from inside one process."""


def uploaded(part_id: str, *, station: str = "S1") -> ImageUploaded:
    """An upload whose id is its part's."""
    return ImageUploaded(
        event_id=derived_event_id("test", uuid4()),
        occurred_at=_AT,
        subject=_subject(part_id, station),
    )


def requested(part_id: str, *, station: str = "S1") -> InspectionRequested:
    """Somebody wants this part inspected now."""
    return InspectionRequested(
        event_id=uuid4(),
        occurred_at=_AT,
        subject=_subject(part_id, station),
        stage="anomaly",
        requested_by="operator",
    )


def _subject(part_id: str, station: str) -> Subject:
    sha256 = hashlib.sha256(part_id.encode()).hexdigest()
    return Subject(
        image_id=sha256[:32],
        product="CELL",
        station=station,
        part_id=part_id,
        captured_at=_AT,
        received_at=_AT,
        image=ImageRef(bucket="plant", key=f"images/{sha256}", sha256=sha256, size_bytes=1),
    )


def embedded(event: Any) -> ImageEmbedded:
    """What a stage makes of an upload, deterministic."""
    return ImageEmbedded(
        event_id=derived_event_id("embed", event.event_id),
        occurred_at=_AT,
        subject=event.subject,
        stage="embed",
        trigger_event_id=event.event_id,
        model="none",
        index_version="0",
        **origin_of(event),
    )


def message(event: Event) -> Message:
    """As an upload API would publish it."""
    return encode(event, source="/test")


Fault = Callable[[Any], Exception | None]


def no_fault(_: Any) -> Exception | None:
    """Let everything succeed."""
    return None


class ScriptedStage:
    """A batch stage whose verbs raise what the script says; it notes what it was asked.

    `fault_in_load`, `fault_in_infer` and `fault_in_save` get the part id and return what to raise.
    """

    name = "embed"

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.batches: list[list[str]] = []
        self.saves: list[str] = []
        self.fault_in_load: Fault = no_fault
        self.fault_in_infer: Fault = no_fault
        self.fault_in_save: Fault = no_fault
        self.before_load: Callable[[str], Any] | None = None

    async def load(self, event: Any) -> Any:
        part = event.subject.part_id
        self.loads.append(part)
        if self.before_load is not None:
            await self.before_load(part)
        _maybe(self.fault_in_load(part))
        return part

    def infer(self, items: Sequence[str]) -> Sequence[str]:
        self.batches.append(list(items))
        for part in items:
            _maybe(self.fault_in_infer(part))
        return list(items)

    async def save(self, event: Any, result: Any) -> Event | None:
        self.saves.append(result)
        _maybe(self.fault_in_save(result))
        assert event.subject.part_id == result, "a result reached another event"
        return embedded(event)


def _maybe(error: BaseException | None) -> None:
    if error is not None:
        raise error


class SlotScriptedStage(ScriptedStage):
    """The same with one result at a time; `during_infer` may wait."""

    def __init__(self) -> None:
        super().__init__()
        self.during_infer: Callable[[str], Any] | None = None
        self.running = 0
        self.most_running = 0

    async def infer(self, item: str) -> str:  # type: ignore[override]  # a slot stage
        self.batches.append([item])
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self.during_infer is not None:
                await self.during_infer(item)
            _maybe(self.fault_in_infer(item))
        finally:
            self.running -= 1
        return item


class Rig:
    """Broker, clock and what a test wants to know of them."""

    def __init__(self, *, partitions: int = 2) -> None:
        self.clock = VirtualClock()
        self.broker = MemoryBroker(self.clock, partitions=partitions)
        self.workers: list[Worker] = []

    def worker(
        self,
        stage: Any,
        settings: WorkerSettings = INLINE,
        *,
        topics: tuple[str, ...] = (IN,),
        **changes: Any,
    ) -> Worker:
        """A worker of the group; `changes` are settings."""
        return Worker(
            stage,
            self.broker.open_source(GROUP, topics),
            self.broker,
            self.clock,
            NullTelemetry(),
            replace(settings, **changes),
        )

    @asynccontextmanager
    async def running(self, worker: Worker) -> AsyncIterator[asyncio.Task[None]]:
        """Run a worker, stop it in order at the end; its error is raised."""
        task = asyncio.create_task(worker.run())
        try:
            yield task
        finally:
            await self.stop(task)

    async def stop(self, task: asyncio.Task[None]) -> None:
        """Cancel as a signal does, and wait for the end."""
        task.cancel()
        if not task.done():
            await self.clock.run_until(task.done)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def send(self, *events: Event, partition: int | None = None) -> None:
        """Publish inputs."""
        for event in events:
            self.broker.append(message(event), partition=partition)

    def send_parts(self, *parts: str, station: str = "S1", partition: int | None = None) -> None:
        """Publish an upload for each part."""
        self.send(*(uploaded(part, station=station) for part in parts), partition=partition)

    def outputs(self) -> list[str]:
        """Parts that came out, in log order per partition, duplicates included."""
        return [_event(record).subject.part_id for record in self.broker.records(OUT)]

    def letters(self) -> list[DeadLetter]:
        """Dead letters in log order."""
        return [_event(record) for record in self.broker.records(DEAD)]

    def buried(self) -> dict[str | None, str]:
        """Reason by part."""
        return {
            letter.subject.part_id if letter.subject else None: letter.reason
            for letter in self.letters()
        }

    def committed(self, partition: int = 0, topic: str = IN) -> int | None:
        """Committed offset of one partition."""
        for place, commit in self.broker.committed(GROUP).items():
            if place == (topic, partition):
                return commit.offset
        return None

    def all_committed(self, topic: str = IN) -> bool:
        """Whether the group has settled all that lies in the log."""
        return all(
            (self.committed(index, topic) or 0) == len(log)
            for index, log in enumerate(self.broker.log(topic))
        )

    async def until(self, condition: Callable[[], bool], limit_s: float = 600.0) -> None:
        """Let time pass until `condition` holds, or fail."""
        try:
            await self.clock.run_until(condition, limit_s=limit_s)
        except TimeoutError as error:
            raise AssertionError(str(error)) from None


def _event(record: Record) -> Any:
    return decode(record)
