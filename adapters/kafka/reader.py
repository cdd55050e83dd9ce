"""Reading from Kafka outside any group: replicas, the feed, replays (port `OpenReader`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, errors
from aiokafka import TopicPartition as ClientPartition

from adapters.kafka.connection import KafkaConnection, as_stalled, stop_quietly
from adapters.kafka.patience import be_patient
from adapters.kafka.source import consumer_options, end_offsets, start, to_records
from pipeline.errors import StalledError
from pipeline.ports import Commit, EventSource
from schemas.message import Record, TopicPartition

_ANSWER_LIMIT_S = 10.0
_METADATA_S = 0.002


class KafkaOpenReader:
    """Opens readers; each has its own connection and position."""

    def __init__(self, connection: KafkaConnection) -> None:
        """Keep where the cluster is."""
        self._connection = connection

    def __call__(
        self,
        topics: Collection[str],
        start: Mapping[TopicPartition, int] | str = "earliest",
    ) -> AbstractAsyncContextManager[EventSource]:
        """Read all partitions of `topics` that exist now.

        Args:
            topics: names of existing topics.
            start: `earliest`, `latest`, or the next offset of each partition; a partition that
                the mapping leaves out is read from its start, so that nothing is missed.

        Raises (on entering):
            DependencyDownError: the broker is away.
            StalledError: an offset lies outside the log.
            ConfigError: credentials refused, or a topic does not exist.
        """
        return _open_reader(self._connection, tuple(topics), start)


@asynccontextmanager
async def _open_reader(
    connection: KafkaConnection,
    topics: tuple[str, ...],
    position: Mapping[TopicPartition, int] | str,
) -> AsyncIterator[EventSource]:
    consumer = AIOKafkaConsumer(**connection.client_options(), **consumer_options())
    try:
        await start(consumer, connection, topics)
        be_patient(consumer)
        places = await _partitions(consumer, topics)
        offsets = await _resolve(consumer, places, position)
        consumer.assign(places)
        for place, offset in offsets.items():
            consumer.seek(place, offset)
        yield KafkaReader(consumer, places)
    finally:
        await stop_quietly(consumer)


async def _partitions(consumer: Any, topics: tuple[str, ...]) -> list[ClientPartition]:
    """Learn which partitions there are; `assign` follows with all of them and their positions.

    To be told of a topic's partitions one must be assigned to it; every topic has a first one.
    `subscribe` would tell as well, but a subscription forgets all positions whenever a topic
    grows, and an `unsubscribe` just when it gets its partitions ends the client's fetching for
    good and in silence: 6 of 100 readers on a busy machine never got a record.
    """
    consumer.assign([ClientPartition(topic, 0) for topic in topics])
    try:
        async with asyncio.timeout(_ANSWER_LIMIT_S):
            # aiokafka asks for them in the background and offers nothing to wait on.
            while not all(consumer.partitions_for_topic(topic) for topic in topics):  # noqa: ASYNC110
                await asyncio.sleep(_METADATA_S)
    except TimeoutError as error:
        raise as_stalled(error, "reading the partitions") from None
    return [
        ClientPartition(topic, number)
        for topic in topics
        for number in sorted(consumer.partitions_for_topic(topic))
    ]


async def _resolve(
    consumer: Any, places: list[ClientPartition], position: Mapping[TopicPartition, int] | str
) -> dict[ClientPartition, int]:
    try:
        async with asyncio.timeout(_ANSWER_LIMIT_S):
            starts = await consumer.beginning_offsets(places)
            ends = await consumer.end_offsets(places)
    except (errors.KafkaError, TimeoutError, OSError) as error:
        raise as_stalled(error, "reading the log's range") from error
    if isinstance(position, str):
        return dict(starts if position == "earliest" else ends)
    offsets = {}
    for place in places:
        offset = position.get(TopicPartition(*place), starts[place])
        if not starts[place] <= offset <= ends[place]:
            raise StalledError(
                f"offset {offset} lies outside {place.topic}[{place.partition}], "
                f"which holds {starts[place]} to {ends[place]}; read from another position"
            )
        offsets[place] = offset
    return offsets


class KafkaReader:
    """A position in topics that never commits (port `EventSource`)."""

    def __init__(self, consumer: Any, places: Sequence[ClientPartition]) -> None:
        """Use `KafkaOpenReader`."""
        self._consumer = consumer
        self._places = tuple(places)

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """Return records in log order per partition.

        Raises:
            DependencyDownError: the broker is away; call again.
            StalledError: the position fell out of the log; open a new reader.
        """
        try:
            batches = await self._consumer.getmany(
                *self._places, timeout_ms=int(timeout_s * 1000), max_records=max_records
            )
        except errors.NoOffsetForPartitionError:
            # Left over from the assignment that asked for the partitions: it had no positions.
            return ()
        except (errors.KafkaError, OSError) as error:
            raise as_stalled(error, "reading without a group") from error
        return to_records(batches)

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Return nothing of these until `resume`."""
        self._consumer.pause(*(ClientPartition(*place) for place in partitions))

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Undo `pause`."""
        self._consumer.resume(*(ClientPartition(*place) for place in partitions))

    async def commit(self, offsets: Mapping[TopicPartition, Commit]) -> None:
        """Refuse: a reader has no group to commit for.

        Raises:
            StalledError: always.
        """
        raise StalledError(f"a reader has no group; {len(offsets)} positions were not committed")

    async def end_offsets(self) -> Mapping[TopicPartition, int]:
        """Next offset to be written of each partition.

        Raises:
            DependencyDownError: the broker is away.
        """
        return await end_offsets(self._consumer, self._places)
