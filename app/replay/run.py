"""One replay from start to summary: the shipped worker between a stretch and a side topic."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

from adapters.clock import SystemClock
from adapters.kafka.admin import KafkaAdmin, open_admin
from adapters.telemetry import PrometheusTelemetry
from app.replay.answers import label_of
from app.replay.request import Request, find_stretch
from app.replay.side import SideTopics, objects_of
from app.replay.versions import Prepared, chosen_settings, prepare
from app.resources import Resources, open_resources
from app.roles import Kit
from app.settings import Settings
from pipeline.errors import LinesideError
from pipeline.side_output import SideSink, SideStore
from pipeline.stretch import Selection, Span, StretchSource
from pipeline.telemetry import MetricName, NullTelemetry
from pipeline.worker import Worker
from schemas.codec import decode
from schemas.dead_letters import DeadLetter
from schemas.message import Message, Record, TopicPartition
from schemas.side_topics import side_topic
from schemas.subject import rfc3339_ms

Json = dict[str, Any]
# step, events done, events in all
Progress = Callable[[str, int, int], None]

_SHOW_EVERY_S = 0.25


@dataclass
class Tally(NullTelemetry):
    """Counts what the worker settles and what the side topic has acknowledged."""

    settled: int = 0
    published: int = 0
    dead_lettered: int = 0
    labels: Counter[str] = field(default_factory=Counter)

    def count(self, name: MetricName, n: float = 1, **labels: str) -> None:  # noqa: ARG002 - the port's shape
        """Note events that were settled without a dead letter."""
        if name == "events_settled":
            self.settled += int(n)

    def note(self, message: Message) -> None:
        """Count an output that is acknowledged."""
        event = decode(Record(message.topic, 0, 0, message.key, message.value, message.headers))
        if isinstance(event, DeadLetter):
            self.dead_lettered += 1
            return
        self.published += 1
        self.labels[label_of(event)] += 1

    @property
    def processed(self) -> int:
        """Events that are done for good."""
        return self.settled + self.dead_lettered


@dataclass
class Replay:
    """One replay; `run` it once.

    Attributes:
        stop: set it to end early and in order.
        has_begun: whether there is anything to sum up.
    """

    settings: Settings
    request: Request
    show: Progress
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    tally: Tally = field(default_factory=Tally)
    has_begun: bool = False

    async def run(self) -> Json:
        """Run; returns the summary.

        Raises:
            ConfigError: what was asked for is not there; nothing was made.
            DependencyDownError: broker, store or database are away.
        """
        request = self.request
        settings = chosen_settings(self.settings, request.stage, request.version.model)
        async with AsyncExitStack() as stack:
            resources = await stack.enter_async_context(open_resources(settings, "replay"))
            admin = await stack.enter_async_context(open_admin(resources.connection))
            stretch = await find_stretch(admin, request)
            side = SideTopics(admin, resources.objects)
            self.show("loading the stage", 0, 0)
            kit = Kit(self._aside(resources), SystemClock(), PrometheusTelemetry())
            prepared = await prepare(kit, request, objects_of(request.name))
            running = _Running()
            stack.push_async_callback(running.end)
            for service in (*prepared.replicas, *prepared.services):
                running.start(service.run())
            version = await self._unless_broken(running, self._check(prepared))
            return await self._replay(running, _Scene(side, stretch, prepared, version, kit))

    def _aside(self, resources: Resources) -> Resources:
        """Return the resources with sink and store that touch nothing live."""
        name = self.request.name
        sink = SideSink(resources.sink, side_topic(name).name, self.tally.note)
        store = SideStore(resources.objects, objects_of(name))
        # Roles use both through their ports alone; the fields name what they usually are.
        return replace(resources, sink=cast("Any", sink), objects=cast("Any", store))

    async def _check(self, prepared: Prepared) -> Json:
        self.show("reading configuration", 0, 0)
        for replica in prepared.replicas:
            await replica.wait_caught_up()
        version = await prepared.check()
        if prepared.ready is not None:
            self.show("building the index", 0, 0)
            await prepared.ready()
        return version

    async def _unless_broken(self, running: _Running, work: Coroutine[Any, Any, Json]) -> Json:
        """Return what `work` gives, or raise what a service beside it failed with."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, *running.tasks}, return_when=asyncio.FIRST_COMPLETED)
            running.check()
            return await task
        finally:
            task.cancel()

    async def _replay(self, running: _Running, scene: _Scene) -> Json:
        request = self.request
        selection = Selection(
            request.since_ms, request.until_ms, request.product, request.limit, request.rate
        )
        resources = scene.kit.resources
        source = StretchSource(resources.open_reader, scene.stretch, selection, scene.kit.clock)
        worker = Worker(
            scene.prepared.stage,
            source,
            resources.sink,
            scene.kit.clock,
            self.tally,
            scene.prepared.worker,
        )
        plan = {"stage": request.stage, "version": scene.version}
        note = await scene.side.open(
            request.name,
            plan,
            append=request.append,
            partitions=len(scene.stretch),
            replication_factor=self.settings.kafka.replication_factor,
        )
        self.has_begun, began = True, time.monotonic()
        error = await self._work(running, worker, source)
        summary = self._summary(source, scene, seconds=time.monotonic() - began, error=error)
        note["runs"].append({k: v for k, v in summary.items() if k not in plan})
        await scene.side.keep(note)
        return summary

    async def _work(self, running: _Running, worker: Worker, source: StretchSource) -> str | None:
        """Run the worker to the stretch's end, or to an early one; returns what went wrong."""
        working = running.start(worker.run())
        waits = [asyncio.ensure_future(source.done.wait()), asyncio.ensure_future(self.stop.wait())]
        error: LinesideError | None = None
        try:
            while True:
                self._show(worker, source)
                ended, _ = await asyncio.wait(
                    {*waits, *running.tasks},
                    return_when=asyncio.FIRST_COMPLETED,
                    timeout=_SHOW_EVERY_S,
                )
                if ended:
                    break
            running.check()
        except LinesideError as failure:
            error = failure
        finally:
            for wait in waits:
                wait.cancel()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        self._show(worker, source)
        return None if error is None else str(error)

    def _show(self, worker: Worker, source: StretchSource) -> None:
        troubles = ", ".join(worker.not_ready())
        step = f"{self.request.stage}{f' waits: {troubles}' if troubles else ''}"
        if self.request.limit is not None:
            self.show(step, self.tally.processed, self.request.limit)
            return
        total = sum(span.stop - span.start for span in source.stretch.values())
        done = self.tally.processed + source.skipped.total() + source.holes
        self.show(step, done, total)

    def _summary(
        self, source: StretchSource, scene: _Scene, *, seconds: float, error: str | None
    ) -> Json:
        tally, request = self.tally, self.request
        return {
            "name": request.name,
            "into": side_topic(request.name).name,
            "stage": request.stage,
            "version": scene.version,
            "topic": request.topic,
            "product": request.product,
            "since": _moment(request.since_ms),
            "until": _moment(request.until_ms),
            "offsets": _offsets(source.covered()),
            "read": source.read,
            "skipped": source.skipped.total(),
            "skipped_by": dict(source.skipped),
            "processed": tally.processed,
            "published": tally.published,
            "dead_lettered": tally.dead_lettered,
            "silent": max(0, tally.settled - tally.published),
            "unfinished": source.selected - tally.processed,
            "by_verdict": dict(sorted(tally.labels.items())),
            "seconds": round(seconds, 2),
            "interrupted": self.stop.is_set(),
            "error": error,
        }


@dataclass(frozen=True, slots=True)
class _Scene:
    """What a replay runs with once everything is checked."""

    side: SideTopics
    stretch: Mapping[TopicPartition, Span]
    prepared: Prepared
    version: Json
    kit: Kit


@dataclass
class _Running:
    """Tasks beside the worker, and the worker's own."""

    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self.tasks.append(task)
        return task

    def check(self) -> None:
        """Raise what ended a task; none ends by itself otherwise."""
        for task in self.tasks:
            if task.done():
                task.result()

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def _offsets(covered: Mapping[TopicPartition, Span]) -> dict[str, list[int]]:
    return {str(place.partition): list(span) for place, span in sorted(covered.items())}


def _moment(unix_ms: int | None) -> str | None:
    return None if unix_ms is None else rfc3339_ms(datetime.fromtimestamp(unix_ms / 1000, UTC))


async def open_side(settings: Settings, stack: AsyncExitStack) -> tuple[Resources, SideTopics]:
    """Open what listing, removing and comparing replays needs."""
    resources = await stack.enter_async_context(open_resources(settings, "replay"))
    admin: KafkaAdmin = await stack.enter_async_context(open_admin(resources.connection))
    return resources, SideTopics(admin, resources.objects)
