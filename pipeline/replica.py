"""The state of a compacted control topic, kept in memory by everyone who needs it.

One partition, no group: every replica reads all of it, so any replica can serve any product
(architecture.md section 5, "Replicas").
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pipeline.errors import DependencyDownError, TransientError
from pipeline.lifecycle import Service
from pipeline.ports import EventSource, OpenReader
from pipeline.telemetry import NullTelemetry, Telemetry
from schemas.codec import MalformedEventError, decode
from schemas.event import Event
from schemas.message import Record, TopicPartition

logger = logging.getLogger(__name__)

_POLL_RECORDS = 500
_POLL_S = 0.5
_RETRY_S = 1.0
_LOOKUP_LIMIT_S = 10.0
# A log may end in offsets that no reader ever gets (aborted transactions): after so many polls
# that found nothing, a position below the end counts as the end. Long, for a busy machine may
# take seconds to a first fetch, and an end that was not reached would hide what lies there.
_QUIET_POLLS = 30


class Replica:
    """Newest event of each key of one control topic; a Service.

    A record that cannot be decoded or applied is logged and counted, and never blocks the rest.
    """

    def __init__(
        self,
        open_reader: OpenReader,
        topic: str,
        *,
        key: Callable[[Any], str],
        on_change: Callable[[Any], Awaitable[None]] | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        """Name what to follow.

        Args:
            open_reader: opens the topic; it must notice by itself when it stalls.
            topic: a compacted topic of `schemas.topics`.
            key: what the newest event is kept by; usually the topic's own key.
            on_change: called in log order for every applied event, removals included. It is
                called again for the same event when it raises TransientError.
            telemetry: counts refused records.
        """
        self.name = f"replica {topic}"
        self._open_reader = open_reader
        self._topic = topic
        self._key = key
        self._on_change = on_change
        self._telemetry = telemetry or NullTelemetry()
        self._state: dict[str, Event] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._source: EventSource | None = None
        self._trouble: str | None = None
        self._quiet_polls = 0
        self._caught_up = asyncio.Event()
        self._progress = asyncio.Event()

    async def run(self) -> None:
        """Follow the topic until cancelled, across outages of the broker.

        Raises:
            StalledError: the position fell out of the log; start again to rebuild the state.
        """
        while True:
            try:
                async with self._open_reader([self._topic], self._start()) as source:
                    self._source = source
                    await self._follow(source)
            except DependencyDownError as error:
                self._note_trouble(error)
                await asyncio.sleep(_RETRY_S)
            finally:
                self._source = None

    def not_ready(self) -> Sequence[str]:
        """Say why lookups may be wrong, nothing when the state was caught up with the log."""
        if self._caught_up.is_set():
            return ()
        return (f"{self._topic} is not read to its end yet" + _because(self._trouble),)

    async def wait_caught_up(self) -> None:
        """Wait until everything that lay in the topic when reading began is applied."""
        await self._caught_up.wait()

    def get(self, key: str) -> Any:
        """Return the newest event of a key, None if there is none or it was removed."""
        event = self._state.get(key)
        return None if event is None or _is_removed(event) else event

    def values(self) -> list[Any]:
        """Return the newest event of every key that was not removed."""
        return [event for event in self._state.values() if not _is_removed(event)]

    async def lookup(self, key: str) -> Any:
        """As `get`, but reads the log to its present end before it answers None.

        Raises:
            DependencyDownError: the broker is away, so None would be a guess.
            TransientError: the log's end was not reached in time; ask again.
        """
        found = self.get(key)
        if found is not None:
            return found
        source = self._source
        if source is None:
            raise DependencyDownError("kafka", f"{self._topic} cannot be read now")
        ends = await source.end_offsets()
        self._quiet_polls = 0  # polls before now say nothing about this end
        try:
            async with asyncio.timeout(_LOOKUP_LIMIT_S):
                while not self._has_reached(ends):
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            raise TransientError(f"{self._topic} was not read to its end in time") from None
        return self.get(key)

    def _start(self) -> dict[TopicPartition, int] | str:
        return dict(self._positions) if self._positions else "earliest"

    async def _follow(self, source: EventSource) -> None:
        ends = await source.end_offsets()
        self._quiet_polls = 0
        while True:
            if self._has_reached(ends) and not self._caught_up.is_set():
                self._caught_up.set()
                logger.info(
                    "control topic is caught up",
                    extra={"action": "replica_caught_up", "topic": self._topic},
                )
            try:
                records = await source.poll(_POLL_RECORDS, _POLL_S)
            except DependencyDownError as error:
                self._note_trouble(error)
                await asyncio.sleep(_RETRY_S)
                continue
            self._trouble = None
            self._quiet_polls = 0 if records else self._quiet_polls + 1
            for record in records:
                await self._apply(record)
                self._positions[record.topic_partition] = record.offset + 1
            self._progress.set()

    def _has_reached(self, ends: Any) -> bool:
        if self._quiet_polls >= _QUIET_POLLS:
            return True
        return all(self._positions.get(place, 0) >= end for place, end in ends.items())

    async def _apply(self, record: Record) -> None:
        try:
            event = decode(record)
            self._state[self._key(event)] = event
            if self._on_change is not None:
                await self._change(event)
        except MalformedEventError as error:
            self._refuse(record, error.reason, error)
        except Exception as error:  # noqa: BLE001 - one bad record must not hide all later ones
            self._refuse(record, "not_applied", error)

    async def _change(self, event: Event) -> None:
        assert self._on_change is not None
        while True:
            try:
                await self._on_change(event)
            except TransientError as error:
                self._note_trouble(error)
                await asyncio.sleep(_RETRY_S)
            else:
                return

    def _refuse(self, record: Record, reason: str, error: Exception) -> None:
        self._telemetry.count("control_records_refused", topic=self._topic)
        logger.error(
            "control record is not applied",
            extra={
                "action": "control_record_refused",
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "reason": reason,
                "error": repr(error),
            },
        )

    def _note_trouble(self, error: Exception) -> None:
        self._trouble = str(error)
        logger.warning(
            "control topic waits",
            extra={"action": "replica_waits", "topic": self._topic, "error": str(error)},
        )


def _is_removed(event: Event) -> bool:
    return bool(getattr(event, "removed", False))


def _because(trouble: str | None) -> str:
    return f": {trouble}" if trouble else ""


class Gate:
    """Starts a service once replicas have read what lay in their topics; a Service itself.

    A stage that began earlier would judge by settings of yesterday, or miss a bank.
    """

    def __init__(self, service: Service, *replicas: Replica) -> None:
        """Name what waits, and for what."""
        self.name = service.name
        self._service = service
        self._replicas = replicas

    async def run(self) -> None:
        """Wait, then run."""
        for replica in self._replicas:
            await replica.wait_caught_up()
        await self._service.run()

    def not_ready(self) -> Sequence[str]:
        """Say what the service says; the replicas speak for themselves."""
        return self._service.not_ready()
