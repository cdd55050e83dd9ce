"""What is done to a cluster rather than through it: topics, offsets, lag, one honest check."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, errors
from aiokafka import TopicPartition as ClientPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.group import LeaveGroupRequest

from adapters.kafka.connection import (
    KafkaConnection,
    as_stalled,
    explain_refusal,
    stop_quietly,
)
from pipeline.errors import ConfigError, ConflictError, LinesideError, StalledError
from schemas.message import TopicPartition
from schemas.topics import TOPICS, Topic

_ANSWER_LIMIT_S = 15.0
_RETRY_S = 0.1
_TOPIC_EXISTS = 36
_MOVE_TRIES = 20
_TOPIC_ABSENT = 3


class LogRange(NamedTuple):
    """First offset that the log still holds, and the next one to be written."""

    start: int
    end: int


class Lag(NamedTuple):
    """How far a group is: `committed` None means that it never committed there."""

    partition: TopicPartition
    committed: int | None
    end: int
    lag_records: int


@dataclass(frozen=True, slots=True)
class TopicReport:
    """What `apply_topics` did, and what differs but was left alone, one line each."""

    created: tuple[str, ...]
    extended: tuple[str, ...]
    drift: tuple[str, ...]


class KafkaAdmin:
    """Administration of one cluster, over connections that live as long as the admin."""

    def __init__(self, connection: KafkaConnection, client: Any, reader: Any) -> None:
        """Use `open_admin`."""
        self._connection = connection
        self._client = client
        self._reader = reader

    async def cluster_id(self) -> str:
        """Return the id that positions in the feed carry."""
        return str((await self._cluster())["cluster_id"])

    async def brokers(self) -> int:
        """Return how many brokers are registered."""
        return len((await self._cluster())["brokers"])

    async def topics(self) -> dict[str, int]:
        """Return the cluster's topics with their partition counts, without Kafka's own."""
        async with _answering("list topics"):
            rows = await self._client.describe_topics()
        return {
            str(row["topic"]): len(row["partitions"])
            for row in rows
            if not row["is_internal"] and not str(row["topic"]).startswith("__")
        }

    async def apply_topics(
        self,
        *,
        partitions: int,
        replication_factor: int,
        table: Collection[Topic] = tuple(TOPICS.values()),
    ) -> TopicReport:
        """Create the topics of the table, add partitions, report settings that differ.

        Nothing is removed or altered: a topic with more partitions stays as it is, and a drifted
        setting is for a person to decide.
        """
        before = await self.topics()
        missing = [topic for topic in table if topic.name not in before]
        await self._create(missing, partitions, replication_factor)
        extended = await self._extend(table, before, partitions)
        kept = [topic for topic in table if topic.name in before]
        return TopicReport(
            tuple(topic.name for topic in missing), tuple(extended), tuple(await self._drift(kept))
        )

    async def create_topic(self, topic: Topic, *, partitions: int, replication_factor: int) -> None:
        """Create one topic.

        Raises:
            ConflictError: it exists.
        """
        existed = topic.name in await self.topics()
        if existed or await self._create([topic], partitions, replication_factor):
            raise ConflictError(f"topic {topic.name} exists")

    async def delete_topic(self, name: str) -> None:
        """Delete a topic with all that lies in it; one that is absent is no error."""
        async with _answering("delete a topic"):
            answer = await self._client.delete_topics([name])
        for _name, code in answer.topic_error_codes:
            if code not in {0, _TOPIC_ABSENT}:
                reason = errors.for_code(code).__name__
                raise ConfigError(f"topic {name} could not be deleted: {reason}")
        async with _answering("wait for a topic to go"):
            while name in await self.topics():  # noqa: ASYNC110 - as in `_create`
                await asyncio.sleep(_RETRY_S)

    async def log_ranges(self, topics: Collection[str]) -> dict[TopicPartition, LogRange]:
        """Return what the log holds of each partition of `topics`."""
        places = await self._partitions(topics)
        if not places:
            return {}
        async with _answering("read the log's range"):
            starts = await self._reader.beginning_offsets(places)
            ends = await self._reader.end_offsets(places)
        return {TopicPartition(*place): LogRange(starts[place], ends[place]) for place in places}

    async def offsets_at(
        self, topics: Collection[str], timestamp_ms: int
    ) -> dict[TopicPartition, int]:
        """Return the first offset written at or after a time, the end where there is none.

        `timestamp_ms` is the broker's append time, Unix milliseconds UTC.
        """
        ranges = await self.log_ranges(topics)
        if not ranges:
            return {}
        async with _answering("look a time up"):
            found = await self._reader.offsets_for_times(
                {ClientPartition(*place): timestamp_ms for place in ranges}
            )
        return {
            TopicPartition(*place): row.offset if row else ranges[TopicPartition(*place)].end
            for place, row in found.items()
        }

    async def lag(self, group: str, topics: Collection[str]) -> list[Lag]:
        """Return how far `group` is in each partition of `topics`, worst first."""
        ranges = await self.log_ranges(topics)
        places = [ClientPartition(*place) for place in ranges]
        async with _answering("read a group's offsets"):
            committed = await self._group_offsets(group, places)
        rows = []
        for place, (start, end) in ranges.items():
            row = committed.get(ClientPartition(*place))
            offset = row.offset if row is not None and row.offset >= 0 else None
            behind = end - (start if offset is None else offset)
            # The group may have gone past the end since that was read.
            rows.append(Lag(place, offset, end, max(0, behind)))
        return sorted(rows, key=lambda row: -row.lag_records)

    async def committed(self, group: str, topics: Collection[str]) -> dict[TopicPartition, int]:
        """Return the positions that `group` committed in `topics`."""
        places = await self._partitions(topics)
        if not places:
            return {}
        async with _answering("read a group's offsets"):
            rows = await self._group_offsets(group, places)
        return {
            TopicPartition(*place): row.offset for place, row in rows.items() if row.offset >= 0
        }

    async def members(self, group: str) -> list[str]:
        """Return the ids of who is in `group`."""
        async with _answering("describe a group"):
            node = await self._coordinator(group)
            (answer,) = await self._client.describe_consumer_groups([group], node)
        return [str(member[0]) for row in answer.groups for member in row[5]]

    async def move_group(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Set the positions of `group`, which a person decided on.

        Its members are put out of the group first, since Kafka moves only empty ones; those that
        live come back by themselves, at the new positions.

        Raises:
            StalledError: members came back faster than the positions were set.
        """
        by_topic: dict[str, list[tuple[int, int, str]]] = {}
        for place, offset in offsets.items():
            by_topic.setdefault(place.topic, []).append((place.partition, offset, ""))
        # Neither request has a public method.
        send = self._client._send_request  # noqa: SLF001 - see above
        commit = OffsetCommitRequest(group, -1, "", -1, list(by_topic.items()))
        for _ in range(_MOVE_TRIES):
            members = await self.members(group)
            async with _answering("move a group"):
                node = await self._coordinator(group)
                for member in members:
                    await send(LeaveGroupRequest(group, member), node)
                answer = await send(commit, node)
            codes = {code for _, rows in answer.topics for _, code in rows}
            if codes == {0}:
                return
            await asyncio.sleep(_RETRY_S)
        reason = ", ".join(errors.for_code(code).__name__ for code in codes if code)
        raise StalledError(f"group {group} cannot be moved: {reason}; stop its workers, try again")

    async def _partitions(self, topics: Collection[str]) -> list[ClientPartition]:
        known = await self.topics()
        return [
            ClientPartition(topic, number)
            for topic in topics
            for number in range(known.get(topic, 0))
        ]

    async def _group_offsets(self, group: str, places: list[ClientPartition]) -> dict[Any, Any]:
        node = await self._coordinator(group)
        found: dict[Any, Any] = await self._client.list_consumer_group_offsets(
            group, node, partitions=places
        )
        return found

    async def _coordinator(self, group: str) -> int:
        while True:
            try:
                return int(await self._client.find_coordinator(group))
            except errors.GroupCoordinatorNotAvailableError:
                # The first group of a new cluster: Kafka is just making its offsets topic.
                await asyncio.sleep(_RETRY_S)

    async def _cluster(self) -> Mapping[str, Any]:
        async with _answering("describe the cluster"):
            facts: Mapping[str, Any] = await self._client.describe_cluster()
        return facts

    async def _create(
        self, topics: Sequence[Topic], partitions: int, replication_factor: int
    ) -> list[str]:
        """Create topics; returns those that somebody else made at the same time."""
        if not topics:
            return []
        existed: list[str] = []
        rows = [
            NewTopic(
                topic.name,
                1 if topic.single_partition else partitions,
                replication_factor,
                topic_configs=topic_settings(topic),
            )
            for topic in topics
        ]
        async with _answering("create topics"):
            answer = await self._client.create_topics(rows)
        for name, code, *words in answer.topic_errors:
            if code == _TOPIC_EXISTS:  # another process may have applied the same table
                existed.append(str(name))
            elif code:
                reason = words[0] if words and words[0] else errors.for_code(code).__name__
                raise ConfigError(f"topic {name} could not be created: {reason}")
        names = {topic.name for topic in topics}
        async with _answering("wait for new topics"):
            # The controller has answered; a broker hears of it a moment later.
            while not names <= set(await self.topics()):  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(_RETRY_S)
        return existed

    async def _extend(
        self, table: Collection[Topic], before: Mapping[str, int], partitions: int
    ) -> list[str]:
        short = [
            topic.name
            for topic in table
            if not topic.single_partition and before.get(topic.name, partitions) < partitions
        ]
        if short:
            async with _answering("add partitions"):
                await self._client.create_partitions(
                    {name: NewPartitions(partitions) for name in short}
                )
        return short

    async def _drift(self, topics: Sequence[Topic]) -> list[str]:
        if not topics:
            return []
        wanted = {topic.name: topic_settings(topic) for topic in topics}
        asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in wanted]
        async with _answering("read topic settings"):
            answers = await self._client.describe_configs(asked)
        lines: list[str] = []
        for answer in answers:
            for _code, _words, _kind, name, entries in answer.resources:
                actual = {str(entry[0]): str(entry[1]) for entry in entries}
                lines.extend(
                    f"{name}: {setting} is {actual.get(setting)}, the table says {value}"
                    for setting, value in wanted[name].items()
                    if actual.get(setting) != value
                )
        return lines


def topic_settings(topic: Topic) -> dict[str, str]:
    """Return the settings of a topic as its row in the table means them."""
    settings = {"message.timestamp.type": "LogAppendTime"}
    if topic.retention_ms is None:
        # Small segments let the cleaner reach recent records; the live segment is never compacted.
        settings |= {"cleanup.policy": "compact", "segment.ms": "86400000"}
    else:
        settings |= {"cleanup.policy": "delete", "retention.ms": str(topic.retention_ms)}
    return settings


@asynccontextmanager
async def open_admin(connection: KafkaConnection) -> AsyncIterator[KafkaAdmin]:
    """Connect to a cluster for administration.

    Raises:
        DependencyDownError: the broker is away.
        ConfigError: it refuses the credentials.
    """
    options = connection.client_options()
    client = AIOKafkaAdminClient(**options, request_timeout_ms=int(_ANSWER_LIMIT_S * 1000))
    reader = AIOKafkaConsumer(**options, enable_auto_commit=False)
    try:
        try:
            await asyncio.gather(client.start(), reader.start())
        except (errors.KafkaError, OSError) as error:
            raise await explain_refusal(connection, error) from None
        yield KafkaAdmin(connection, client, reader)
    finally:
        await client.close()
        await stop_quietly(reader)


async def check(connection: KafkaConnection) -> str:
    """Make one real round trip; returns one line for people.

    Raises:
        DependencyDownError: the broker is away.
        ConfigError: it refuses the credentials, or the topics are missing.
    """
    async with open_admin(connection) as admin:
        cluster_id = await admin.cluster_id()
        brokers = await admin.brokers()
        missing = sorted(set(TOPICS) - set(await admin.topics()))
    if missing:
        raise ConfigError(
            f"Kafka at {connection.bootstrap_servers} answers, but {len(missing)} topics are "
            f"missing ({missing[0]}, …); run: lineside topics apply"
        )
    return f"Kafka at {connection.bootstrap_servers}, cluster {cluster_id}, {brokers} broker(s)"


async def count_brokers(bootstrap_servers: str) -> int:
    """Return how many brokers form the cluster behind the first address that answers, else 0."""
    for address in bootstrap_servers.split(","):
        host, port = address.rsplit(":", 1)
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            continue
        writer.close()
        try:
            async with open_admin(KafkaConnection(address)) as admin:
                return await admin.brokers()
        except LinesideError:
            continue
    return 0


@asynccontextmanager
async def _answering(doing: str) -> AsyncIterator[None]:
    """Bound a call to the cluster and name what failed."""
    try:
        async with asyncio.timeout(_ANSWER_LIMIT_S):
            yield
    except (errors.KafkaError, TimeoutError, OSError) as error:
        raise as_stalled(error, f"Kafka, {doing}") from error
