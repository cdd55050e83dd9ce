"""The worker: poll → load → infer → save → publish → commit, the only loop that runs stages.

Each step is a task of its own, so that one batch computes while the next one loads and the last
one is published. Between them stands `Dispatch`, which knows what may start and where failed
events go. The promise: at least once, and nothing is committed before its output is acknowledged.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

from pipeline.committing import Committer
from pipeline.compute import Compute, ComputeThread, InlineCompute
from pipeline.dispatch import Dispatch
from pipeline.draining import Handover
from pipeline.inferring import infer_batch, save_batch, save_one
from pipeline.lanes import Lanes, Step
from pipeline.ports import Clock, EventSink, EventSource, OpenSource, PeekLog
from pipeline.publishing import Publisher
from pipeline.reading import Reader
from pipeline.reporting import Reporter, peek_nothing
from pipeline.stage import Settled, Stage
from pipeline.telemetry import MetricName, Telemetry
from pipeline.work import Work
from pipeline.worker_settings import WorkerSettings
from schemas.codec import decode
from schemas.replays import is_for_another_stage


class Worker:
    """Runs one stage on what one group member reads (a `lifecycle.Service`)."""

    def __init__(
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
        dispatch = self._dispatch = Dispatch(self.name, ahead, clock, telemetry, settings)
        self._committer = Committer(dispatch, clock, telemetry, settings)
        self._reader = Reader(dispatch, self._committer, clock, telemetry, settings)
        self._handover = Handover(dispatch, self._committer, clock, telemetry, settings)
        patience_s = settings.publish_patience_s
        self._publisher = Publisher(sink, dispatch, clock, patience_s=patience_s)
        self._loaders = Lanes(settings.load_concurrency, dispatch.next_to_load, self._load)
        self._slots = Lanes(settings.slots, dispatch.take_one_ready, self._infer_alone)
        self._computable = asyncio.Event()
        self._publishable = asyncio.Event()
        self._computed: asyncio.Queue[list[Work]] = asyncio.Queue(maxsize=1)
        self._compute: Compute = InlineCompute()
        # How old a record is that was not read: only a look at the log can tell.
        self.peek: PeekLog = peek_nothing

    # -- life -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled, then drain within the budget and leave the group; runs once.

        Raises:
            StalledError: it cannot go on; everything unfinished stays uncommitted.
        """
        if self._settings.compute == "thread" and not self._has_slots:
            self._compute = ComputeThread(f"compute-{self.name}")
        try:
            async with self._open_source(self._handover) as source, asyncio.TaskGroup() as group:
                self._start(source, group)
                try:
                    await self._reader.run(source)
                finally:
                    try:
                        await self._handover.drain()
                    finally:
                        self._close()
        except BaseExceptionGroup as errors:
            raise _first_of(errors) from errors
        finally:
            self._compute.close()
            self._dispatch.end()

    def not_ready(self) -> Sequence[str]:
        """Reasons why it cannot work right now."""
        reasons = [] if self._handover.has_joined else [f"{self.name}: waits for its partitions"]
        reasons += [
            f"{self.name}: {one} is away since {since:%Y-%m-%d %H:%M:%SZ}"
            for one, since in self._dispatch.away_since()
        ]
        troubles = (self._reader.trouble, self._publisher.trouble)
        return reasons + [f"{self.name}: {trouble}" for trouble in troubles if trouble]

    @property
    def last_turn(self) -> float:
        """Monotonic time of the last poll: a loop that is stuck shows here."""
        return self._reader.last_turn

    def _start(self, source: EventSource, group: asyncio.TaskGroup) -> None:
        """Start every step but reading, and tie each to what wakes it."""

        def start(step: Step) -> asyncio.Task[None]:
            return group.create_task(self._guard(step))

        self._committer.use(source)
        self._loaders.open(start)
        self._slots.open(start)
        self._handover.abandon = lambda gone: self._slots.abandon(lambda one: one.partition in gone)
        wake = self._dispatch.wake
        wake.load = self._loaders.wake
        wake.compute = self._slots.wake if self._has_slots else self._computable.set
        wake.publish = self._publishable.set
        if not self._has_slots:
            start(self._infer_batches)
            start(self._save_batches)
        start(self._publish_outputs)
        start(self._committer.run)
        reporter = Reporter(self._dispatch, self._clock, self._telemetry, self.peek)
        start(partial(reporter.run, source))

    async def _guard(self, step: Step) -> None:
        try:
            await step()
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        """Start nothing more; what is still under way has nobody left to finish it."""
        self._handover.budget_s = 0.0
        self._loaders.close()
        self._slots.close()

    # -- the way of a record ----------------------------------------------------------------

    async def _load(self, work: Work) -> None:
        try:
            if is_for_another_stage(work.record, self.name):
                work.item = Settled()
            else:
                if work.event is None:
                    work.event = decode(work.record)
                if self._dispatch.careful:
                    await self._committer.name(work)
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
        while True:
            batch = self._dispatch.take_ready(self._settings.batch_size)
            if not batch:
                self._computable.clear()
                await self._computable.wait()
                continue
            if self._compute.is_aside:
                self._loaders.wake()
            started = self._clock.monotonic()
            await infer_batch(self._stage.infer, batch, self._compute)
            self._observe_since("infer_seconds", started)
            self._telemetry.observe("batch_items", len(batch), stage=self.name)
            await self._computed.put(batch)
            if not self._compute.is_aside:
                # Only now: what is loaded before this batch is saved drives it out of the caches.
                self._loaders.wake()

    async def _save_batches(self) -> None:
        while True:
            batch = await self._computed.get()
            started = self._clock.monotonic()
            await save_batch(self._stage, batch, self._settings.load_concurrency)
            self._observe_since("save_seconds", started)
            for work in batch:
                if work.error is not None:
                    self._dispatch.failed(work, work.error)
                else:
                    self._dispatch.finished(work, ordered=True)

    async def _infer_alone(self, work: Work) -> None:
        """Take one event through a slot; it settles on its own, whatever the others do."""
        self._loaders.wake()
        try:
            if not isinstance(work.item, Settled):
                work.item = await self._stage.infer(work.item)
            await save_one(self._stage, work)
        except asyncio.CancelledError:
            self._dispatch.drop(work)
            raise
        except Exception as error:  # noqa: BLE001 - as in `_load`
            self._dispatch.failed(work, error)
        else:
            self._dispatch.finished(work, ordered=False)

    async def _publish_outputs(self) -> None:
        """Publish all that is finished as one group; acknowledged outputs free their offsets."""
        while True:
            await self._publishable.wait()
            self._publishable.clear()
            started = self._clock.monotonic()
            acknowledged = await self._publisher.publish(self._dispatch.take_outgoing())
            self._dispatch.settle(acknowledged)
            self._observe_since("publish_seconds", started)
            if acknowledged:
                age_s = self._clock.now().timestamp() - acknowledged[0].record.timestamp_ms / 1000
                self._telemetry.observe("event_age_seconds", max(0.0, age_s), stage=self.name)
            self._committer.settled.set()
            self._loaders.wake()

    def _observe_since(self, name: MetricName, started: float) -> None:
        self._telemetry.observe(name, self._clock.monotonic() - started, stage=self.name)


def _first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error that is no group."""
    first = errors.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
