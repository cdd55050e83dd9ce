"""The worker: poll → load → infer → save → publish → commit, the only loop that runs stages.

Each step is a task of its own, so that one batch computes while the next one loads and the last
one is published. Between them stands `Dispatch`, which knows what may start and where failed
events go. The promise: at least once, and nothing is committed before its output is acknowledged.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any

from pipeline.committing import Committer
from pipeline.compute import Compute, ComputeThread, InlineCompute
from pipeline.dispatch import Dispatch
from pipeline.draining import drain
from pipeline.errors import StalledError
from pipeline.inferring import infer_batch, save_batch
from pipeline.journal import Journal
from pipeline.lanes import Lanes
from pipeline.ports import Clock, Commit, EventSink, EventSource, OpenSource
from pipeline.publishing import Publisher
from pipeline.reading import Reader
from pipeline.reporting import report
from pipeline.stage import Settled, Stage
from pipeline.telemetry import Telemetry
from pipeline.work import Partition, Work
from pipeline.worker_settings import WorkerSettings
from schemas.codec import decode, encode
from schemas.dead_letters import DeadLetter
from schemas.message import Message, TopicPartition

# Batches between compute and publisher: one being saved, one waiting.
_COMPUTED_LIMIT = 1


class Worker:
    """Runs one stage on what one group member reads (a `lifecycle.Service`)."""

    def __init__(  # noqa: PLR0913 - the stage, and the five things it runs on
        self,
        stage: Stage,
        open_source: OpenSource,
        sink: EventSink,
        clock: Clock,
        telemetry: Telemetry,
        settings: WorkerSettings,
    ) -> None:
        """`stage.infer` decides the mode: a plain function takes batches, a coroutine slots."""
        self.name = stage.name
        self._stage: Any = stage
        self._open_source = open_source
        self._clock = clock
        self._telemetry = telemetry
        self._settings = settings
        self._has_slots = inspect.iscoroutinefunction(stage.infer)
        ahead = settings.slots if self._has_slots else settings.batch_size
        self._dispatch = Dispatch(self.name, ahead, clock, telemetry, settings)
        self._committer = Committer(self._dispatch, clock, telemetry, settings)
        self._reader = Reader(
            self._dispatch, self._committer, clock, telemetry, settings, self.name
        )
        self._publisher = Publisher(sink, clock, patience_s=settings.publish_patience_s)
        self._loaders = Lanes(settings.load_concurrency, self._dispatch.next_to_load, self._load)
        self._slots = Lanes(settings.slots, self._next_for_slot, self._infer_alone)
        self._computable = asyncio.Event()
        self._publishable = asyncio.Event()
        self._computed: asyncio.Queue[list[Work]] = asyncio.Queue(_COMPUTED_LIMIT)
        self._observers: set[Callable[[], None]] = set()
        self._has_joined = False
        self._is_broken = False
        self._compute: Compute = InlineCompute()

    # -- life -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled, then drain within the budget and leave the group.

        Raises:
            StalledError: it cannot go on; everything unfinished stays uncommitted.
        """
        if self._settings.compute == "thread" and not self._has_slots:
            self._compute = ComputeThread(f"compute-{self.name}")
        try:
            async with self._open_source(self) as source, asyncio.TaskGroup() as group:
                self._start(source, group)
                try:
                    await self._reader.run(source)
                finally:
                    await self._let_go(list(self._dispatch.partitions))
        except BaseExceptionGroup as errors:
            raise _first_of(errors) from errors
        finally:
            self._compute.close()
            self._dispatch.end()
            self._committer.use(None)

    def not_ready(self) -> Sequence[str]:
        """Reasons why it cannot work right now."""
        reasons = [] if self._has_joined else [f"{self.name}: waits for its partitions"]
        reasons += [f"{self.name}: {one} is away" for one in self._dispatch.breakers.open_names()]
        troubles = (self._reader.trouble, self._publisher.trouble)
        return reasons + [f"{self.name}: {trouble}" for trouble in troubles if trouble]

    @property
    def last_turn(self) -> float:
        """Monotonic time of the last poll: a loop that is stuck shows here."""
        return self._reader.last_turn

    def _start(self, source: EventSource, group: asyncio.TaskGroup) -> None:
        def start(step: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            return group.create_task(self._guard(step))

        self._committer.use(source)
        self._loaders.open(start)
        self._slots.open(start)
        wake = self._dispatch.wake
        wake.load = self._loaders.wake
        wake.compute = self._slots.wake if self._has_slots else self._computable.set
        wake.publish = self._publishable.set
        wake.left = self._notify
        if not self._has_slots:
            start(self._infer_batches())
            start(self._save_batches())
        start(self._publish_outputs())
        start(self._committer.run())
        start(report(self._dispatch, source, self._clock, self._telemetry, self.name))

    async def _guard(self, step: Coroutine[Any, Any, None]) -> None:
        try:
            await step
        except Exception:
            self._is_broken = True
            raise

    # -- the way of a record ----------------------------------------------------------------

    async def _load(self, work: Work) -> None:
        try:
            if self._dispatch.careful:
                await self._committer.name(work)
            if work.event is None:
                work.event = decode(work.record)
            work.item = await self._stage.load(work.event)
        except asyncio.CancelledError:
            self._dispatch.drop(work)
            raise
        except Exception as error:  # noqa: BLE001 - a stage may raise anything; it is sorted there
            self._dispatch.failed(work, error)
        else:
            self._dispatch.loaded(work)

    async def _infer_batches(self) -> None:
        """Take whatever is ready as soon as compute is idle; batches grow while it is not."""
        stage, telemetry, clock = self._stage, self._telemetry, self._clock
        while True:
            batch = self._dispatch.take_ready(self._settings.batch_size)
            if not batch:
                self._computable.clear()
                await self._computable.wait()
                continue
            self._loaders.wake()
            started = clock.monotonic()
            await infer_batch(stage.infer, batch, self._compute)
            telemetry.observe("batch_items", len(batch), stage=self.name)
            telemetry.observe("infer_seconds", clock.monotonic() - started, stage=self.name)
            await self._computed.put(batch)

    async def _save_batches(self) -> None:
        while True:
            batch = await self._computed.get()
            started = self._clock.monotonic()
            await save_batch(self._stage, batch, self._settings.load_concurrency)
            elapsed_s = self._clock.monotonic() - started
            self._telemetry.observe("save_seconds", elapsed_s, stage=self.name)
            for work in batch:
                if work.error is not None:
                    self._dispatch.failed(work, work.error)
                else:
                    self._dispatch.finished(work, work.output, ordered=True)

    def _next_for_slot(self) -> Work | None:
        works = self._dispatch.take_ready(1)
        return works[0] if works else None

    async def _infer_alone(self, work: Work) -> None:
        self._loaders.wake()
        try:
            if isinstance(work.item, Settled):
                output = work.item.event
            else:
                output = await self._stage.save(work.event, await self._stage.infer(work.item))
        except asyncio.CancelledError:
            self._dispatch.drop(work)
            raise
        except Exception as error:  # noqa: BLE001 - as in `_load`
            self._dispatch.failed(work, error)
        else:
            self._dispatch.finished(work, output, ordered=False)

    async def _publish_outputs(self) -> None:
        """Publish all that is finished in one group, then settle it: outputs before offsets."""
        outgoing = self._dispatch.outgoing
        while True:
            await self._publishable.wait()
            self._publishable.clear()
            works = [outgoing.popleft() for _ in range(len(outgoing))]
            started = self._clock.monotonic()
            await self._publish(works)
            elapsed_s = self._clock.monotonic() - started
            self._telemetry.observe("publish_seconds", elapsed_s, stage=self.name)
            self._committer.settled.set()
            self._loaders.wake()

    async def _publish(self, works: Sequence[Work]) -> None:
        messages: list[Message] = []
        publishing: list[Work] = []
        for work in works:
            if work.output is None or work.partition.closed:
                self._dispatch.settle(work)
                continue
            try:
                messages.append(self._encode(work))
            except Exception as error:  # noqa: BLE001 - an output without a topic, say
                self._refused(work, error)
            else:
                publishing.append(work)
        refused = await self._publisher.publish(messages) if messages else {}
        for index, work in enumerate(publishing):
            if index in refused:
                self._refused(work, refused[index])
            else:
                self._dispatch.settle(work)

    def _encode(self, work: Work) -> Message:
        assert work.output is not None
        traceparent = work.record.header("traceparent")
        return encode(work.output, source=f"/lineside/{self.name}", traceparent=traceparent)

    def _refused(self, work: Work, error: Exception) -> None:
        if isinstance(work.output, DeadLetter):
            raise StalledError(
                f"a dead letter cannot be published ({error}); its record stays uncommitted"
            ) from error
        self._dispatch.failed(work, error)

    # -- partitions come and go -------------------------------------------------------------

    async def assigned(self, partitions: Mapping[TopicPartition, Commit | None]) -> None:
        """Take partitions; their journals are opened with their first records."""
        self._has_joined = True
        for place, commit in partitions.items():
            journal = Journal.read(commit.metadata if commit else "", self._settings.journal)
            self._dispatch.assign(Partition(place, commit, journal))

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """Finish what was started, within the budget, and hand the partitions over."""
        await self._let_go(partitions)

    async def _let_go(self, places: Collection[TopicPartition]) -> None:
        going = [
            self._dispatch.partitions[one] for one in places if one in self._dispatch.partitions
        ]
        if going:
            budget_s = 0.0 if self._is_broken else self._settings.drain_budget_s
            await drain(self, going, budget_s=budget_s, clock=self._clock)
            self._dispatch.unassign(going)

    def stop_intake(self, partitions: Collection[Partition]) -> None:
        """Step 1 of a drain."""
        for partition in partitions:
            self._dispatch.stop_intake(partition)

    def abandon(self, partitions: Collection[Partition]) -> None:
        """Step 3 of a drain."""
        self._slots.abandon(lambda work: work.partition in partitions)

    async def commit(self, partitions: Collection[Partition], *, at_rest: bool) -> None:
        """Step 4 of a drain."""
        await self._committer.commit(partitions, at_rest=at_rest)

    def on_settled(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back whenever a record leaves; returns how to stop that."""
        self._observers.add(callback)
        return lambda: self._observers.discard(callback)

    def _notify(self) -> None:
        for callback in self._observers:
            callback()


def _first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error that is none of a group's own."""
    first = errors.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
