"""One log, in memory or on Apache Kafka, for the contract of its ports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from adapters.clock import SystemClock
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.reader import KafkaOpenReader
from adapters.kafka.sink import KafkaSink
from adapters.kafka.source import GroupMember, KafkaOpenSource
from adapters.memory.broker import MemoryBroker
from pipeline.ports import Commit, EventSink, EventSource, OpenReader, OpenSource
from schemas.message import Message, Record, TopicPartition


@dataclass
class Log:
    """One implementation of the log's three ports, and a fresh topic on it."""

    topic: str
    partitions: int
    sink: EventSink
    open_reader: OpenReader
    join: Callable[[str], OpenSource]

    async def fill(self, count: int, keys: int = 7) -> list[Message]:
        messages = [
            Message(self.topic, f"key-{number % keys}".encode(), str(number).encode())
            for number in range(count)
        ]
        await self.sink.publish(messages)
        return messages


@dataclass
class Listener:
    """Notes what it is told; `on_revoked` may commit."""

    assignments: list[dict[TopicPartition, Commit | None]] = field(default_factory=list)
    revocations: list[list[TopicPartition]] = field(default_factory=list)
    owned: set[TopicPartition] = field(default_factory=set)
    on_revoked: Callable[[], object] = lambda: None
    fail_with: Exception | None = None

    async def assigned(self, partitions: Mapping[TopicPartition, Commit | None]) -> None:
        if self.fail_with:
            raise self.fail_with
        self.assignments.append(dict(partitions))
        self.owned |= set(partitions)

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        self.revocations.append(list(partitions))
        result = self.on_revoked()
        if asyncio.iscoroutine(result):
            await result
        self.owned -= set(partitions)


@pytest.fixture(params=["memory", "kafka"])
def servers(request: pytest.FixtureRequest) -> str | None:
    """Where Kafka is, None for the broker in memory."""
    if request.param == "memory":
        return None
    found: str = request.getfixturevalue("kafka")
    return found


@pytest.fixture
async def log(servers: str | None) -> AsyncIterator[Log]:
    topic = f"contract-{uuid4().hex[:12]}"
    if servers is None:
        broker = MemoryBroker(SystemClock())
        broker.add_topic(topic, 3)
        yield Log(topic, 3, broker, broker.open_reader, lambda g: broker.open_source(g, [topic]))
        return
    connection = KafkaConnection(servers)
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    settings = {"message.timestamp.type": "LogAppendTime"}
    await admin.create_topics([NewTopic(topic, 3, 1, topic_configs=settings)])
    await admin.close()
    sink = KafkaSink(connection, timeout_s=20)

    def join(group: str) -> OpenSource:
        return KafkaOpenSource(connection, GroupMember(f"{topic}-{group}", (topic,)))

    yield Log(topic, 3, sink, KafkaOpenReader(connection), join)
    await sink.close()


async def read(source: EventSource, count: int, *, limit_s: float = 20.0) -> list[Record]:
    found: list[Record] = []
    deadline = time.monotonic() + limit_s
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} records came"
        found.extend(await source.poll(100, 0.2))
    return found


async def read_nothing(source: EventSource, for_s: float = 0.6) -> None:
    deadline = time.monotonic() + for_s
    while time.monotonic() < deadline:
        assert not await source.poll(100, 0.1)


def next_offsets(records: Sequence[Record], note: str = "") -> dict[TopicPartition, Commit]:
    offsets: dict[TopicPartition, Commit] = {}
    for record in records:
        offsets[record.topic_partition] = Commit(record.offset + 1, note)
    return offsets


async def wait_for_partitions(source: EventSource, listener: Listener, records: int) -> None:
    """Poll without taking records until partitions came."""
    deadline = time.monotonic() + 20
    while not listener.owned:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert records == 0


async def drain(source: EventSource) -> list[Record]:
    """Read until nothing came for a while."""
    found: list[Record] = []
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < 0.6:
        records = await source.poll(100, 0.1)
        if records:
            found.extend(records)
            quiet_since = time.monotonic()
    return found
