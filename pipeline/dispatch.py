"""What may start next, and where an event goes that failed; no IO, one event loop, a given clock.

A record is QUEUED → LOADING → LOADED (waits for earlier ones of its key) → READY → STARTED → GONE.
From any of these it may be HELD (tried again later), go back to QUEUED (an outage), or be dropped
(its partition is handed over and the log redelivers it).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.breaker import Breakers
from pipeline.burial import BurialWatch, dead_letter
from pipeline.intake import Queues
from pipeline.ports import Clock
from pipeline.retries import Bury, Held, Outage, Wait, decide
from pipeline.sealing import seal
from pipeline.telemetry import Telemetry
from pipeline.waiting import Alarm
from pipeline.work import Partition, State, Work
from pipeline.worker_settings import WorkerSettings
from schemas.message import Record, TopicPartition

logger = logging.getLogger(__name__)


def _nothing() -> None:
    return


@dataclass(slots=True)
class Wakers:
    """Called when there may be something to do for a part of the worker."""

    load: Callable[[], None] = _nothing
    compute: Callable[[], None] = _nothing
    publish: Callable[[], None] = _nothing
    room: Callable[[], None] = _nothing


class Dispatch:
    """The state of one worker between its steps."""

    def __init__(
        self, stage: str, ahead: int, clock: Clock, telemetry: Telemetry, settings: WorkerSettings
    ) -> None:
        """`ahead` bounds the events that are loaded or loading and not yet started."""
        self.stage = stage
        self._clock = clock
        self._telemetry = telemetry
        self._settings = settings
        self._ahead_limit = ahead
        self._in_flight_limit = 4 * ahead
        self._ahead = 0
        self._held: Held[Work] = Held()
        self._alarm = Alarm(clock, self._ring)
        self._burials = BurialWatch(settings.burial_limit)
        self._watchers: set[Callable[[], None]] = set()
        self.wake = Wakers()
        self.breakers = Breakers(settings.probe_pace)
        self.partitions: dict[TopicPartition, Partition] = {}
        self.careful: set[Partition] = set()
        self.queue = Queues(settings.priority_topics)
        self.ready = Queues(settings.priority_topics)
        self._outgoing: deque[Work] = deque()
        self.in_flight = 0

    # -- in ---------------------------------------------------------------------------------

    def admit(self, records: Sequence[Record]) -> None:
        """Queue what was read, in log order per partition."""
        partition: Partition | None = None
        append = self.queue.append
        for record in records:
            place = partition.place if partition else None
            if place is None or record[1] != place[1] or record[0] != place[0]:
                partition = self.partitions.get(record.topic_partition)
            if partition is None or partition.closing:
                continue
            work = partition.admit(record)
            if work is not None:
                append(work)
        self.wake.load()

    def next_to_load(self) -> Work | None:
        """Return the next event to load, None if nothing may start now."""
        if self._ahead >= self._ahead_limit or self.in_flight >= self._in_flight_limit:
            return None
        breakers = self.breakers
        if not breakers.all_closed and not breakers.admits(self._clock.monotonic()):
            return None
        if self.careful and self.in_flight:
            return None
        while (work := self.queue.pop()) is not None:
            if work.partition.closing or work.state is not State.QUEUED:
                continue
            if work.line.fence is not None and work.line.blocks(work):
                work.state = State.HELD
                continue
            work.state = State.LOADING
            self._ahead += 1
            self.in_flight += 1
            if not breakers.all_closed:
                breakers.started(work)
            self.wake.room()
            return work
        self.wake.room()
        return None

    def loaded(self, work: Work) -> None:
        """Note that `work.item` is there; release what its key's order allows."""
        if work.partition.closing:
            self.drop(work)
            return
        if work.line.fence is not None and work.line.blocks(work):
            self._leave(work, State.HELD)
            return
        work.state = State.LOADED
        work.line.release(self.ready.append)
        self.wake.compute()

    def take_ready(self, limit: int) -> list[Work]:
        """Start up to `limit` events: whatever is ready, never waiting for more."""
        batch: list[Work] = []
        while len(batch) < limit and (work := self.ready.pop()) is not None:
            work.state = State.STARTED
            work.partition.started += 1
            self._ahead -= 1
            batch.append(work)
        return batch

    def take_one_ready(self) -> Work | None:
        """Start one event, None if none is ready."""
        works = self.take_ready(1)
        return works[0] if works else None

    # -- out --------------------------------------------------------------------------------

    def finished(self, work: Work, *, ordered: bool) -> None:
        """Hand a sealed output to the publisher unless it would overtake an earlier of its key."""
        if ordered and work.line.overtakes(work):
            self._send_back(work)
            return
        self._outgoing.append(work)
        self.wake.publish()

    def take_outgoing(self) -> list[Work]:
        """Return all that is to be published, in order."""
        works = list(self._outgoing)
        self._outgoing.clear()
        return works

    def settle(self, works: Sequence[Work]) -> None:
        """Note that these outputs are acknowledged: their offsets may be committed."""
        letters = 0
        for work in works:
            if work.partition.closed:
                self.drop(work)
                continue
            letters += work.is_letter
            if not self.breakers.all_closed:
                self._answered(work)
            self._leave(work, State.GONE)
            work.partition.settle(work)
            if work.line.fence is work:
                self.queue.put_back(work.partition.lower_fence(work))
        well = len(works) - letters
        if well:
            self._burials.settled(well)
            self._telemetry.count("events_settled", well, stage=self.stage)

    def failed(self, work: Work, error: Exception) -> None:
        """Decide what becomes of an event whose attempt raised `error`.

        Raises:
            StalledError: the dead-letter limit is reached.
        """
        partition = work.partition
        if partition.closing:
            self.drop(work)
            return
        now = self._clock.now()
        settings = self._settings
        verdict = decide(
            error,
            attempts=work.attempts + 1,
            now=now,
            ladder=settings.ladder,
            bug_tries=settings.bug_tries,
        )
        if isinstance(verdict, Outage):
            self._open_breaker(work, verdict.dependency, error)
            return
        self._answered(work)
        if isinstance(verdict, Bury) or verdict.counted:
            work.attempts += 1
            work.first_attempt_at = work.first_attempt_at or now
        if isinstance(verdict, Bury):
            self._bury(work, verdict.reason, error)
        else:
            self._hold(work, verdict, error)

    def drop(self, work: Work) -> None:
        """Give an event back to the log: its partition goes, whoever gets it reads it again."""
        self._leave(work, State.GONE)
        self.wake.load()

    def assign(self, partition: Partition) -> None:
        """Take a partition; one that is still here under its place counts no more."""
        former = self.partitions.get(partition.place)
        if former is not None:
            self.stop_intake(former)
            former.closed = True
        self.partitions[partition.place] = partition

    def unassign(self, partitions: Collection[Partition]) -> None:
        """Forget partitions that were handed over."""
        for partition in partitions:
            self.careful.discard(partition)
            if self.partitions.get(partition.place) is partition:
                del self.partitions[partition.place]

    def stop_intake(self, partition: Partition) -> None:
        """Start nothing more of a partition; what was loaded and not started is dropped."""
        partition.closing = True
        self.queue.remove(partition)
        for work in self.ready.remove(partition):
            self.drop(work)
        for work in partition.waiting():
            if work.state is State.LOADED:
                self.drop(work)
        self.wake.load()

    def watch(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Call back whenever a record leaves the worker; returns how to stop that."""
        self._watchers.add(watcher)
        return lambda: self._watchers.discard(watcher)

    def away_since(self) -> list[tuple[str, datetime]]:
        """Dependencies that are away, and since when, aware UTC."""
        elapsed = self._clock.monotonic()
        return [
            (name, self._clock.now() - timedelta(seconds=elapsed - since))
            for name, since in self.breakers.open_since()
        ]

    def end(self) -> None:
        """Ring no more."""
        self._alarm.cancel()

    # -- failures ---------------------------------------------------------------------------

    def _bury(self, work: Work, reason: str, error: Exception) -> None:
        self._burials.burying(reason)
        logger.warning(
            "event buried",
            extra={
                "action": "event_buried", "stage": self.stage, "reason": reason,
                "topic": work.record.topic, "partition": work.record.partition,
                "offset": work.offset, "attempts": work.attempts, "error": str(error)[:500],
            },
            exc_info=error if reason == "bug" else None,
        )  # fmt: skip
        self._telemetry.count("dead_letters", stage=self.stage, reason=reason)
        if work.state is not State.STARTED:
            work.line.remove(work)
            self._ahead -= 1
            work.state = State.STARTED
            work.partition.started += 1
        now = self._clock.now()
        letter = dead_letter(work, stage=self.stage, reason=reason, error=error, now=now)
        work.message = seal(self.stage, work.record, letter)
        work.is_letter = True
        self.finished(work, ordered=False)
        work.line.release(self.ready.append)
        self.wake.compute()

    def _hold(self, work: Work, wait: Wait, error: Exception) -> None:
        if wait.counted:
            logger.info(
                "event will be tried again",
                extra={
                    "action": "event_held", "stage": self.stage, "topic": work.record.topic,
                    "partition": work.record.partition, "offset": work.offset,
                    "attempts": work.attempts, "delay_s": wait.delay_s, "error": str(error)[:500],
                },
            )  # fmt: skip
            self._telemetry.count("events_retried", stage=self.stage)
        self._leave(work, State.HELD)
        work.partition.raise_fence(work)
        for other in work.line.waiting:
            # An earlier one that still waits for its turn is not held up by a later one's failure.
            if other.state is State.LOADED and work.line.blocks(other):
                self._leave(other, State.HELD)
        work.due = self._clock.monotonic() + wait.delay_s
        self._held.add(work, work.due)
        self._alarm.set(work.due)

    def _open_breaker(self, work: Work, dependency: str, error: Exception) -> None:
        if self.breakers.all_closed:
            logger.warning(
                "dependency is away, the stage waits for it",
                extra={
                    "action": "breaker_opened", "stage": self.stage, "dependency": dependency,
                    "error": str(error)[:500],
                },
            )  # fmt: skip
            self._telemetry.gauge("breaker_open", 1, stage=self.stage, dependency=dependency)
        retry_at = self.breakers.trip(dependency, self._clock.monotonic(), work)
        self._send_back(work)
        self._alarm.set(retry_at)

    def _send_back(self, work: Work) -> None:
        """Let an event be loaded again in its key's order, no attempt counted."""
        line = work.line
        self._leave(work, State.QUEUED)
        line.put_back(work)
        again = [work]
        for other in line.waiting:
            # Those behind it give their place up: it must be free for the one they wait for.
            if other.state is State.LOADED:
                self._leave(other, State.QUEUED)
                again.append(other)
        self.queue.put_back(again)
        self.wake.load()

    def _answered(self, work: Work) -> None:
        names = self.breakers.open_names() if not self.breakers.all_closed else ()
        if self.breakers.answered(work):
            for name in names:
                logger.info(
                    "dependency is back",
                    extra={
                        "action": "breaker_closed", "stage": self.stage, "dependency": name
                    },
                )  # fmt: skip
                self._telemetry.gauge("breaker_open", 0, stage=self.stage, dependency=name)
            self.wake.load()

    def _leave(self, work: Work, state: State) -> None:
        if work.state is State.STARTED:
            work.partition.started -= 1
        else:
            self._ahead -= 1
        self.in_flight -= 1
        if not self.breakers.all_closed:
            self.breakers.dropped(work)
        work.state = state
        work.item = work.message = work.error = None
        work.is_letter = False
        for watcher in self._watchers:
            watcher()

    def _ring(self) -> None:
        """A time has come: of a held event, or of a breaker's next probe."""
        now = self._clock.monotonic()
        for work in self._held.pop_due(now):
            is_due = work.state is State.HELD and work.due <= now
            if is_due and not work.line.blocks(work) and not work.partition.closing:
                work.state = State.QUEUED
                self.queue.put_back([work])
        for due in (self._held.next_due, self.breakers.retry_at):
            if due is not None and due > now:
                self._alarm.set(due)
        self.wake.load()
