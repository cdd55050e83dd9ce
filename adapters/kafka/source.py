"""Reading from Kafka as a member of a group: explicit commits, explicit first positions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, errors
from aiokafka import TopicPartition as ClientPartition

from adapters.kafka.connection import (
    KafkaConnection,
    as_stalled,
    as_transient,
    explain_refusal,
    is_away,
    leave,
)
from adapters.kafka.patience import LEFT_OUT_WAIT_MS, be_patient, gathering
from adapters.kafka.shares import Shares
from pipeline.errors import ConfigError, DependencyDownError, LinesideError, StalledError
from pipeline.ports import AssignmentListener, Commit, EventSource
from schemas.message import Record, TopicPartition

logger = logging.getLogger(__name__)

_ANSWER_LIMIT_S = 10.0
_RETRY_S = 0.5
# A member hears of a rebalance with its next heartbeat, so others wait that long for it.
_HEARTBEAT_S = 1.0
# An idle source asks the broker this often whether it is still there: aiokafka never says.
_PROBE_EVERY_S = 2.0
_PROBE_LIMIT_S = 4.0
# The worker's poll loop proves its life to its own watchdog; a second judge would only evict it.
_MAX_POLL_INTERVAL_MS = 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class GroupMember:
    """Who reads: a group, the topics, and a place in the group that outlives a crash.

    `instance_id` is role and slot: a killed member that comes back within its session gets its
    partitions at once. None makes a dynamic member, whose leaving is seen at once instead.
    `drain_budget_s` is how long the group waits for a member that hands its partitions over.
    `gather_s`: see `gathering`.
    """

    group: str
    topics: tuple[str, ...]
    instance_id: str | None = None
    session_s: float = 10.0
    drain_budget_s: float = 30.0
    gather_s: float = 0.0


def kafka_source(connection: KafkaConnection, member: GroupMember) -> KafkaOpenSource:
    """Return what opens a group member for a listener (port `OpenSource`)."""
    return KafkaOpenSource(connection, member)


class KafkaOpenSource:
    """Opens group members; one at a time for one `instance_id`."""

    def __init__(self, connection: KafkaConnection, member: GroupMember) -> None:
        """Keep who reads what."""
        self._connection = connection
        self._member = member

    def __call__(self, listener: AssignmentListener) -> AbstractAsyncContextManager[EventSource]:
        """Join on entering, leave on leaving; partitions come through `listener`.

        Raises (on entering):
            DependencyDownError: the broker is away.
            ConfigError: credentials refused, or a topic does not exist.
        """
        return _open_source(self._connection, self._member, listener)


@asynccontextmanager
async def _open_source(
    connection: KafkaConnection, member: GroupMember, listener: AssignmentListener
) -> AsyncIterator[EventSource]:
    consumer = AIOKafkaConsumer(
        **connection.client_options(),
        **(consumer_options() | gathering(member.gather_s)),
        group_id=member.group,
        group_instance_id=member.instance_id,
        session_timeout_ms=int(member.session_s * 1000),
        heartbeat_interval_ms=int(min(_HEARTBEAT_S, member.session_s / 3) * 1000),
        rebalance_timeout_ms=int((member.drain_budget_s + member.session_s) * 1000),
        max_poll_interval_ms=_MAX_POLL_INTERVAL_MS,
    )
    try:
        await start(consumer, connection, member.topics)
        if not member.gather_s:
            be_patient(consumer)
        source = KafkaSource(consumer, member, listener)
        # Subscribing after the start lets the caller hold the source before partitions come.
        consumer.subscribe(member.topics, listener=source)
        try:
            yield source
        finally:
            source.close()
    finally:
        await leave(consumer)


def consumer_options() -> dict[str, Any]:
    """Settings that group members and readers share; each default of aiokafka loses something."""
    return {
        "enable_auto_commit": False,
        # No silent jump: who has no position gets one from us, who has a bad one stops.
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "fetch_max_wait_ms": LEFT_OUT_WAIT_MS,
        "metadata_max_age_ms": 30_000,
    }


async def start(consumer: Any, connection: KafkaConnection, topics: Collection[str]) -> None:
    """Connect a consumer and make sure that its topics exist.

    Raises:
        DependencyDownError: the broker is away.
        ConfigError: credentials refused, or a topic does not exist.
    """
    try:
        async with asyncio.timeout(_ANSWER_LIMIT_S):
            await consumer.start()
            known = await consumer.topics()
    except (errors.KafkaError, TimeoutError, OSError) as error:
        raise await explain_refusal(connection, error) from None
    missing = sorted(set(topics) - known)
    if missing:
        raise ConfigError(
            f"Kafka at {connection.bootstrap_servers} has no topic {', '.join(missing)}; "
            "run: lineside topics apply"
        )


class KafkaSource(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """A group member (port `EventSource`).

    Records of a partition come only between its `assigned` and its `revoked`.
    """

    def __init__(self, consumer: Any, member: GroupMember, listener: AssignmentListener) -> None:
        """Use `kafka_source`."""
        self._consumer = consumer
        self._shares = Shares(consumer)
        self._member = member
        self._listener = listener
        self._live: tuple[ClientPartition, ...] = ()
        self._paused: set[ClientPartition] = set()
        self._failure: LinesideError | None = None
        self._changed = asyncio.Event()
        self._closed = asyncio.Event()
        self._probed_at = time.monotonic()

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """Return records of live partitions, in log order per partition.

        Raises:
            DependencyDownError: the broker is away; call again.
            StalledError: this member cannot go on.
        """
        if self._failure:
            raise self._failure
        try:
            if not self._live:
                await self._wait_for_partitions(timeout_s)
                return ()
            return await self._fetch(max_records, timeout_s)
        except errors.NoOffsetForPartitionError:
            # The fetcher was faster than our own `seek` for a partition without a commit.
            return ()
        except errors.OffsetOutOfRangeError as error:
            raise StalledError(_out_of_log(self._member.group, error)) from None
        except (errors.KafkaError, OSError) as error:
            raise as_stalled(error, f"reading in group {self._member.group}") from error

    async def _wait_for_partitions(self, timeout_s: float) -> None:
        # Not public, yet the only way to hear of a refused group while nothing is assigned:
        # `getmany` would block until partitions come.
        self._consumer._coordinator.check_errors()  # noqa: SLF001 - see above
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        except TimeoutError:
            await self._probe()

    async def _fetch(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        try:
            # When a rebalance begins under its hands, `getmany` waits for the next assignment.
            async with asyncio.timeout(timeout_s + 1.0):
                batches = await self._shares.take(self._live, max_records, timeout_s)
        except TimeoutError:
            return ()
        if not batches:
            await self._probe()
            return ()
        self._probed_at = time.monotonic()
        return to_records(batches)

    async def _probe(self) -> None:
        if time.monotonic() - self._probed_at < _PROBE_EVERY_S:
            return
        await self.end_offsets()
        self._probed_at = time.monotonic()

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Return nothing of these until `resume`, also when they come back after a rebalance."""
        places = {ClientPartition(*place) for place in partitions}
        self._paused |= places
        self._consumer.pause(*(places & self._consumer.assignment()))

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Undo `pause`; the records since are fetched again."""
        places = {ClientPartition(*place) for place in partitions}
        self._paused -= places
        self._consumer.resume(*(places & self._consumer.assignment()))

    async def commit(self, offsets: Mapping[TopicPartition, Commit]) -> None:
        """Commit explicit positions with their notes.

        Raises:
            TransientError: the group has moved on, or the broker is away.
        """
        if not offsets:
            return
        rows = {ClientPartition(*place): tuple(commit) for place, commit in offsets.items()}
        try:
            # aiokafka repeats a retriable error for ever (its issue 1095).
            async with asyncio.timeout(_ANSWER_LIMIT_S):
                await self._consumer.commit(rows)
        except (errors.KafkaError, TimeoutError, OSError) as error:
            raise as_transient(error, f"commit of group {self._member.group}") from error

    async def end_offsets(self) -> Mapping[TopicPartition, int]:
        """Next offset to be written of each live partition.

        Raises:
            DependencyDownError: the broker is away.
        """
        return await end_offsets(self._consumer, self._live)

    @property
    def live(self) -> tuple[ClientPartition, ...]:
        """Partitions whose records flow."""
        return self._live

    @property
    def member_id(self) -> str:
        """How the group calls this member, empty before it joined."""
        # Not public, and nothing else tells one member from another.
        return str(self._consumer._coordinator.member_id)  # noqa: SLF001 - see above

    def positions(self) -> dict[TopicPartition, int | None]:
        """What would be read next of each live partition, None where that is not known."""
        # Not public; the public `position` waits, for ever when the client is frozen.
        assignment = self._consumer._subscription.subscription.assignment  # noqa: SLF001 - see above
        found: dict[TopicPartition, int | None] = {}
        for place in self._live:
            state = assignment.state_value(place) if assignment is not None else None
            known = state is not None and state.has_valid_position
            found[TopicPartition(*place)] = state.position if state and known else None
        return found

    async def on_partitions_assigned(self, assigned: Collection[ClientPartition]) -> None:
        """Give each partition its position, tell the listener, then let records flow."""
        self._consumer.pause(*(self._paused & set(assigned)))
        try:
            committed = await self._positions_at_last(assigned)
            self._failure = None
            await self._listener.assigned(committed)
        except LinesideError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - aiokafka would only log it and go on
            self._fail(as_stalled(error, f"taking partitions in group {self._member.group}"))
        else:
            self._live = tuple(assigned)
        self._changed.set()

    async def on_partitions_revoked(self, revoked: Collection[ClientPartition]) -> None:
        """Stop the flow, and let the listener finish what it started."""
        self._live = ()
        if not revoked:
            return
        try:
            await self._listener.revoked([TopicPartition(*place) for place in revoked])
        except Exception as error:  # noqa: BLE001 - aiokafka would only log it and go on
            self._fail(as_stalled(error, f"handing over in group {self._member.group}"))

    def close(self) -> None:
        """Wait for nothing any more; the client, which waits for this, can then stop."""
        self._closed.set()

    def _fail(self, error: LinesideError) -> None:
        if isinstance(error, DependencyDownError):  # nobody will tell this member to try again
            error = StalledError(str(error))
        logger.error(
            "group member cannot go on",
            extra={"action": "source_stalled", "group": self._member.group, "error": str(error)},
        )
        self._failure = error

    async def _positions_at_last(
        self, assigned: Collection[ClientPartition]
    ) -> dict[TopicPartition, Commit | None]:
        """As `_positions`, however long the broker is away: aiokafka does not ask a second time."""
        while True:
            try:
                return await self._positions(assigned)
            except (errors.KafkaError, TimeoutError, OSError) as error:
                if not is_away(error) or self._closed.is_set():
                    raise
                self._failure = as_stalled(
                    error, f"taking partitions in group {self._member.group}"
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), _RETRY_S)

    async def _positions(
        self, assigned: Collection[ClientPartition]
    ) -> dict[TopicPartition, Commit | None]:
        """Look committed positions up; without one a partition starts at the log's start."""
        if not assigned:
            return {}
        async with asyncio.timeout(_ANSWER_LIMIT_S):
            # Not public, but the public `committed` drops the worker's note.
            committed = await self._consumer._coordinator.fetch_committed_offsets(  # noqa: SLF001
                list(assigned)
            )
            starts = await self._consumer.beginning_offsets(assigned)
        found: dict[TopicPartition, Commit | None] = {}
        for place in assigned:
            row = committed.get(place)
            if row is None or row.offset < 0:
                self._consumer.seek(place, starts[place])
                found[TopicPartition(*place)] = None
                continue
            if row.offset < starts[place]:
                raise StalledError(_lost_records(self._member.group, place, row, starts[place]))
            found[TopicPartition(*place)] = Commit(row.offset, row.metadata or "")
        return found


def to_records(batches: Mapping[Any, Sequence[Any]]) -> list[Record]:
    """Return the pipeline's form of what `getmany` gives."""
    return [
        Record(row.topic, row.partition, row.offset, row.key, row.value, row.headers, row.timestamp)
        for rows in batches.values()
        for row in rows
    ]


async def end_offsets(
    consumer: Any, places: Collection[ClientPartition]
) -> dict[TopicPartition, int]:
    """Next offset to be written of each place.

    Raises:
        DependencyDownError: the broker is away.
    """
    if not places:
        return {}
    try:
        async with asyncio.timeout(_PROBE_LIMIT_S):
            ends = await consumer.end_offsets(places)
    except (errors.KafkaError, TimeoutError, OSError) as error:
        raise as_stalled(error, "reading the log's end") from error
    return {TopicPartition(*place): end for place, end in ends.items()}


def _lost_records(group: str, place: ClientPartition, row: Any, start: int) -> str:
    return (
        f"group {group} stands at offset {row.offset} of {place.topic}[{place.partition}], but the "
        f"log now starts at {start}: {start - row.offset} records were deleted unprocessed. "
        f"Lengthen the topic's retention; to go on without them: {_how_to_move(group)}"
    )


def _how_to_move(group: str) -> str:
    stage = group.removeprefix("lineside.")
    return f"lineside topics reset-group {stage} --to start --yes"


def _out_of_log(group: str, error: Exception) -> str:
    return (
        f"group {group} stands outside the log: {error}. Either records were deleted before they "
        f"were processed, or this is another cluster; to go on: {_how_to_move(group)}"
    )
