"""Every role's stages, built by app/roles.py itself, on a plant that is all in memory.

The plant has one product with a bank, a case and a manual; images went through every stage, so
its log holds true inputs for each of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from adapters.clock import SystemClock
from adapters.memory.arrivals import MemoryArrivals
from adapters.memory.broker import MemoryBroker
from adapters.memory.catalog import MemoryCatalog
from adapters.memory.inspections import MemoryInspections
from adapters.memory.objects import MemoryObjects
from adapters.memory.outbox import MemoryOutbox
from adapters.memory.tables import MemoryTables
from adapters.telemetry import PrometheusTelemetry
from app.resources import Resources
from app.roles import ROLES, Kit
from app.serving import HttpServer
from app.settings import Settings
from pipeline.lifecycle import Service
from pipeline.reporting import peek_nothing
from pipeline.stage import Stage
from pipeline.telemetry import NullTelemetry
from pipeline.worker import Worker
from pipeline.worker_settings import WorkerSettings
from producers.relay import no_fence
from schemas.codec import decode, encode
from schemas.configuration import (
    BankPublished,
    BankRequested,
    CaseRegistered,
    ManualPublished,
    Policy,
    ProductConfigured,
)
from schemas.dead_letters import DeadLetter
from schemas.event import Event, derived_event_id, uploaded_event_id
from schemas.images import ImageUploaded, InspectionRequested
from schemas.message import Message
from schemas.subject import ImageRef, Subject, image_id
from schemas.topics import TOPICS, triggers_of
from tests.plant import MANUAL, PRODUCT, draw_part

IMAGES = 4
NORMALS = 8
AT = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
PATIENCE_S = 60.0


def event_id(name: str) -> UUID:
    """An id that is the same in every run."""
    return derived_event_id("test", UUID(int=0), name)


@dataclass(frozen=True)
class MemoryResources(Resources):
    """What a role needs, with the broker in memory where Kafka would be."""

    broker: MemoryBroker = field(kw_only=True)

    def group(
        self, name: str, *topics: str, drain_budget_s: float = 30.0, gather_s: float = 0.0
    ) -> Any:
        """Open members of a group in memory."""
        return self.broker.open_source(f"lineside.{name}", topics)

    def witness(self, name: str) -> Any:
        """Look at a member from the broker's side."""
        return self.broker.witness


def memory_resources(broker: MemoryBroker, settings: Settings) -> MemoryResources:
    """Everything in memory behind the same fields."""
    tables = MemoryTables()
    memory: dict[str, Any] = {
        "connection": None,
        "open_reader": broker.open_reader,
        "peek": peek_nothing,
        "sink": broker,
        "relay_sink": SimpleNamespace(publish=broker.publish, take_over=no_fence),
        "objects": MemoryObjects(),
        "database": None,
        "inspections": MemoryInspections(tables),
        "arrivals": MemoryArrivals(tables),
        "catalog": MemoryCatalog(tables),
        "outbox": MemoryOutbox(tables, source="/test"),
        "letters": None,
        "replays": None,
    }
    return MemoryResources(settings=settings, role="all", broker=broker, **memory)


@dataclass(frozen=True)
class NotingKit(Kit):
    """A kit that remembers the stages that builders run with it, by name."""

    stages: dict[str, Stage] = field(default_factory=dict)

    def worker(self, stage: Stage, settings: WorkerSettings | None = None) -> Worker:
        """Run a stage, and remember it."""
        self.stages[stage.name] = stage
        return super().worker(stage, settings)


class Plant:
    """A running plant; `stages` maps a name to the stage as its role's builder made it."""

    def __init__(self, broker: MemoryBroker, resources: MemoryResources) -> None:
        self.broker = broker
        self.resources = resources
        self.stages: dict[str, Stage] = {}

    def inputs(self, stage: str) -> list[Event]:
        """What a stage was given, dead letters apart."""
        topics = [name for name in triggers_of(stage) if TOPICS[name].event is not DeadLetter]
        return [decode(record) for name in topics for record in self.broker.records(name)]

    def publish(self, *events: Event) -> None:
        for event in events:
            self.broker.append(encode(event, source="/test"))

    async def until_settled(self) -> None:
        """Wait until every group has settled all that lies in the log."""

        def behind() -> list[str]:
            return [
                f"{stage}: {place}"
                for stage in self.stages
                for place in self.broker.places(triggers_of(stage))
                if _committed(self.broker, f"lineside.{stage}", place) < self.broker.end(place)
            ]

        await until(lambda: not behind(), lambda: f"not settled: {behind()}")

    async def stored(self, folder: str, data: bytes) -> ImageRef:
        sha256 = hashlib.sha256(data).hexdigest()
        key = f"{folder}/{sha256}"
        store = self.resources.objects
        await store.put(key, data, content_type="image/jpeg")
        return ImageRef(bucket=store.bucket, key=key, sha256=sha256, size_bytes=len(data))

    async def upload(self, number: int) -> ImageUploaded:
        image = await self.stored("images", draw_part(500 + number, defect=number % 2 == 0))
        identity = image_id(product=PRODUCT, sha256=image.sha256)
        subject = Subject(
            image_id=identity,
            product=PRODUCT,
            station=f"press-{number % 2}",
            part_id=f"{PRODUCT}-2026-{number:06}",
            captured_at=AT,
            received_at=AT,
            image=image,
        )
        return ImageUploaded(event_id=uploaded_event_id(identity), occurred_at=AT, subject=subject)

    async def set_up(self) -> None:
        """Give the plant its product, manual, case and bank."""
        product = _product(1)
        for number in range(NORMALS):
            await self.stored(f"normals/{PRODUCT}", draw_part(number))
        case = await self.stored("cases", draw_part(400, defect=True))
        text = MANUAL.encode()
        manual = await self.stored("manuals", text)
        self.publish(
            product,
            _state(CaseRegistered, case_id="case-1", image=case, defect_type="scratch"),
            _state(
                ManualPublished,
                manual_id="manual-1",
                title="guide",
                file_name="guide.ko.md",
                content_type="text/markdown",
                **manual.model_dump(include={"key", "sha256", "size_bytes"}),
            ),
            *(
                _state(BankRequested, job_id=f"job-{number}", requested_by="test")
                for number in range(2)
            ),
        )
        await self.until_settled()
        (bank, _) = (decode(record) for record in self.broker.records("banks.published"))
        assert isinstance(bank, BankPublished)
        self.publish(_product(2, active_bank=bank.version))

    async def work(self) -> None:
        """Let images and requests go through every stage."""
        uploads = [await self.upload(number) for number in range(IMAGES)]
        self.publish(*uploads)
        await self.until_settled()
        self.publish(_request(uploads[0], "anomaly"), _request(uploads[1], "llm"))
        await self.until_settled()


def _product(revision: int, **changes: Any) -> ProductConfigured:
    return ProductConfigured(
        event_id=event_id(f"product-{revision}"),
        occurred_at=AT,
        product=PRODUCT,
        display_name=PRODUCT,
        policy=Policy(anomaly="auto", report="auto"),
        revision=revision,
        **changes,
    )


def _state(kind: type[Event], **fields: Any) -> Event:
    name = event_id(f"{kind.type_name}-{fields}")
    return kind.model_validate({"event_id": name, "occurred_at": AT, "product": PRODUCT, **fields})


def _request(upload: ImageUploaded, stage: str) -> InspectionRequested:
    return InspectionRequested.model_validate(
        {
            "event_id": event_id(f"request-{stage}"),
            "occurred_at": AT,
            "subject": upload.subject,
            "stage": stage,
            "requested_by": "operator",
            "explain": stage == "anomaly",
        }
    )


def _committed(broker: MemoryBroker, group: str, place: Any) -> int:
    commit = broker.committed(group).get(place)
    return 0 if commit is None else commit.offset


async def until(check: Callable[[], bool], what: Callable[[], str]) -> None:
    """Wait for a condition, or fail with what is missing."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not check():  # noqa: ASYNC110 - what is awaited has no event of its own
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(what()) from None


@asynccontextmanager
async def running_plant(state_dir: Path) -> AsyncIterator[Plant]:
    """Build every role, run the services of those that have a stage, and let images through."""
    clock = SystemClock()
    broker = MemoryBroker(clock, partitions=2)
    settings = Settings(state_dir=state_dir)
    resources = memory_resources(broker, settings)
    plant = Plant(broker, resources)
    async with AsyncExitStack() as stack:
        running: list[Service] = []
        for build in ROLES.values():
            kit = NotingKit(resources, clock, PrometheusTelemetry())
            services = await stack.enter_async_context(build(kit))
            plant.stages |= kit.stages
            if kit.stages:
                running += [one for one in services if not isinstance(one, HttpServer)]
        tasks = [asyncio.create_task(service.run()) for service in running]
        try:
            await plant.set_up()
            await plant.work()
            yield plant
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True)
class Settlement:
    """What a worker made of its inputs: outputs by id, and the reasons of its dead letters."""

    outputs: dict[str, dict[str, Any]]
    buried: list[str]


def comparable(event: Event) -> dict[str, Any]:
    """An event without what differs between two runs."""
    return event.model_dump(mode="json", exclude={"occurred_at", "timings_ms"})


async def settle(
    stage: Any, inputs: Sequence[Event | Message], *, batch_size: int = 4
) -> Settlement:
    """Run a stage in the shipped worker on a log of its own, in the order of `inputs`."""
    clock = SystemClock()
    broker = MemoryBroker(clock, partitions=1)
    triggers = triggers_of(stage.name)
    for one in inputs:
        broker.append(encode(one, source="/test") if isinstance(one, Event) else one)
    settings = WorkerSettings(batch_size=batch_size, slots=batch_size, bug_tries=1)
    source = broker.open_source("test", triggers)
    task = asyncio.create_task(
        Worker(stage, source, broker, clock, NullTelemetry(), settings).run()
    )

    def is_settled() -> bool:
        return task.done() or all(
            _committed(broker, "test", place) == broker.end(place)
            for place in broker.places(triggers)
        )

    await until(is_settled, lambda: f"{stage.name} has not settled its log")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    made = [name for name in TOPICS if name not in triggers and TOPICS[name].event != DeadLetter]
    events = [decode(record) for name in made for record in broker.records(name)]
    letters = [decode(record) for record in broker.records(f"dead-letters.{stage.name}")]
    assert len(events) == len({event.event_id for event in events})
    return Settlement(
        {str(event.event_id): comparable(event) for event in events},
        sorted(letter.reason for letter in letters if isinstance(letter, DeadLetter)),
    )


class Sabotaged:
    """A stage whose `infer` breaks on one event, in whatever batch that is."""

    def __init__(self, stage: Any, victim: UUID) -> None:
        self._stage = stage
        self._victim = victim
        self._guilty: list[Any] = []
        has_slots = inspect.iscoroutinefunction(stage.infer)
        self.infer = self._infer_one if has_slots else self._infer_batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    async def load(self, event: Event) -> Any:
        item = await self._stage.load(event)
        if event.event_id == self._victim:
            self._guilty.append(item)
        return item

    def _check(self, item: Any) -> None:
        if any(item is guilty for guilty in self._guilty):
            raise ArithmeticError("sabotage")

    def _infer_batch(self, items: Sequence[Any]) -> Any:
        for item in items:
            self._check(item)
        return self._stage.infer(items)

    async def _infer_one(self, item: Any) -> Any:
        self._check(item)
        return await self._stage.infer(item)
