"""Looking at a group member, and at records, from outside: over connections of one look alone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, errors
from aiokafka import TopicPartition as ClientPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import collect_hosts
from aiokafka.coordinator.protocol import ConsumerProtocol

from adapters.kafka.connection import KafkaConnection, as_stalled, stop_quietly
from adapters.kafka.source import KafkaSource, end_offsets
from pipeline.errors import DependencyDownError
from pipeline.ports import EventSource, NextRecord, WitnessView
from schemas.message import TopicPartition

_CONNECT_LIMIT_S = 3.0
_ANSWER_LIMIT_S = 6.0
_PEEK_LIMIT_S = 6.0
_BEAT_S = 0.1
# Groups at rest: what they say of their members is final until somebody joins or leaves.
_AT_REST = frozenset({"Stable", "Empty", "Dead"})
_SILENT = WitnessView(answers=False)


class KafkaWitness:
    """Looks at a `KafkaSource` (port `GroupWitness`)."""

    def __init__(
        self, connection: KafkaConnection, group: str, *, answer_limit_s: float = _ANSWER_LIMIT_S
    ) -> None:
        """Look at members of `group`; an answer later than the limit counts as none."""
        self._connection = connection
        self._group = group
        self._answer_limit_s = answer_limit_s

    async def __call__(self, member: EventSource | None) -> WitnessView:
        """Look.

        Raises:
            DependencyDownError: the broker cannot be reached, or this process is too busy to tell.
        """
        await _knock(self._connection.bootstrap_servers)
        pulse = _Pulse()
        try:
            async with pulse.beating(), asyncio.timeout(self._answer_limit_s):
                return await self._look(member)
        except TimeoutError:
            if pulse.is_weak:
                raise DependencyDownError("kafka", "this process was too busy to hear it") from None
            if await self._any_answers():
                # The cluster gives its partitions to others; no other member could do better now.
                raise DependencyDownError("kafka", "a broker of several says nothing") from None
            return _SILENT
        except (errors.KafkaError, OSError) as error:
            raise DependencyDownError("kafka", f"looking at {self._group}: {error!r}") from error

    async def _any_answers(self) -> bool:
        """Whether one of several brokers is there although another one held the look up."""
        addresses = self._connection.bootstrap_servers.split(",")
        if len(addresses) == 1:
            return False
        asked = (_answers(self._connection, one, self._answer_limit_s) for one in addresses)
        return any(await asyncio.gather(*asked))

    async def _look(self, member: EventSource | None) -> WitnessView:
        async with _clients(self._connection) as (admin, reader):
            state, members = await self._describe(admin)
            if not isinstance(member, KafkaSource):
                return WitnessView(answers=True)
            ends = await end_offsets(reader, member.live)
            assigned = members.get(member.member_id)
            return WitnessView(
                answers=True,
                is_stable=state in _AT_REST,
                is_member=assigned is not None,
                assigned=assigned or frozenset(),
                positions=member.positions(),
                ends=ends,
            )

    async def _describe(
        self, admin: AIOKafkaAdminClient
    ) -> tuple[str, dict[str, frozenset[TopicPartition]]]:
        """State of the group, and what each member was given, by member id."""
        answers = await admin.describe_consumer_groups([self._group])
        code, _, state, _, _, members, *_ = answers[0].groups[0]
        if code:
            raise errors.for_code(code)
        return state, {row[0]: _given(row[4]) for row in members}


class KafkaPeek:
    """Looks at single records (port `PeekLog`)."""

    def __init__(self, connection: KafkaConnection) -> None:
        """Look at the log behind a connection."""
        self._connection = connection

    async def __call__(
        self, places: Mapping[TopicPartition, int | None]
    ) -> Mapping[TopicPartition, NextRecord]:
        """Return the first record at each offset; one that does not come in time is left out.

        Raises:
            DependencyDownError: the broker is away.
        """
        options = self._connection.client_options()
        reader = AIOKafkaConsumer(
            **options,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            # The broker gives one batch of each at least, however little is asked for.
            max_partition_fetch_bytes=1,
            fetch_max_wait_ms=50,
        )
        found: dict[TopicPartition, NextRecord] = {}
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PEEK_LIMIT_S):
                    await reader.start()
                    await _read_first(reader, places, found)
        except (errors.KafkaError, OSError) as error:
            raise as_stalled(error, "looking at the log") from error
        finally:
            await stop_quietly(reader)
        return found


async def _read_first(
    reader: Any,
    places: Mapping[TopicPartition, int | None],
    found: dict[TopicPartition, NextRecord],
) -> None:
    wanted = {ClientPartition(*place): offset for place, offset in places.items()}
    reader.assign(list(wanted))
    for place, offset in wanted.items():
        if offset is not None:
            reader.seek(place, offset)
    while len(found) < len(wanted):
        for place, records in (await reader.getmany(timeout_ms=500)).items():
            key = TopicPartition(*place)
            if records and key not in found:
                found[key] = NextRecord(records[0].offset, records[0].timestamp)
                reader.pause(place)


@asynccontextmanager
async def _clients(
    connection: KafkaConnection,
) -> AsyncIterator[tuple[AIOKafkaAdminClient, AIOKafkaConsumer]]:
    options = connection.client_options()
    admin = AIOKafkaAdminClient(**options)
    # What a member that reads committed records only can get to.
    reader = AIOKafkaConsumer(**options, enable_auto_commit=False, isolation_level="read_committed")
    try:
        await asyncio.gather(admin.start(), reader.start())
        yield admin, reader
    finally:
        with contextlib.suppress(errors.KafkaError, OSError):
            await admin.close()
        await stop_quietly(reader, 1.0)


async def _answers(connection: KafkaConnection, address: str, limit_s: float) -> bool:
    """Whether this one broker says anything at all."""
    only = AIOKafkaAdminClient(
        **connection.client_options() | {"bootstrap_servers": address.strip()}
    )
    try:
        async with asyncio.timeout(limit_s):
            await only.start()
    except (errors.KafkaError, TimeoutError, OSError):
        return False
    finally:
        with contextlib.suppress(errors.KafkaError, OSError):
            await only.close()
    return True


async def _knock(bootstrap_servers: str) -> None:
    """Tell a broker that takes connections from one that is away.

    Raises:
        DependencyDownError: no address takes a connection.
    """
    reason: Exception | None = None
    for host, port, _ in collect_hosts(bootstrap_servers):
        try:
            async with asyncio.timeout(_CONNECT_LIMIT_S):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError) as error:
            reason = error
        else:
            writer.close()
            return
    raise DependencyDownError("kafka", f"no connection to {bootstrap_servers}: {reason!r}")


def _given(assignment: bytes) -> frozenset[TopicPartition]:
    if not assignment:
        return frozenset()
    partitions: Collection[Any] = ConsumerProtocol.ASSIGNMENT.decode(assignment).partitions()
    return frozenset(TopicPartition(*place) for place in partitions)


class _Pulse:
    """Whether the event loop turned while an answer was waited for: a busy one hears nothing."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._beats = 0

    @property
    def is_weak(self) -> bool:
        expected = (time.monotonic() - self._began) / _BEAT_S
        return self._beats < expected / 2

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            task.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            self._beats += 1
