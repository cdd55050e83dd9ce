from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import TopicPartition as ClientPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.errors import OutOfOrderSequenceNumber

from adapters.embedded_broker import EmbeddedBroker
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.patience import GATHERED_BYTES
from adapters.kafka.reader import KafkaOpenReader
from adapters.kafka.sink import KafkaSink
from adapters.kafka.source import GroupMember, KafkaOpenSource
from pipeline.errors import ConfigError, DependencyDownError, PoisonError, StalledError
from pipeline.ports import Commit, EventSource
from schemas.message import Message, Record, TopicPartition
from tests.services import free_port, until

pytestmark = pytest.mark.needs_kafka


class Listener:
    def __init__(self) -> None:
        self.owned: set[TopicPartition] = set()
        self.told: list[dict[TopicPartition, Commit | None]] = []

    async def assigned(self, partitions: Mapping[TopicPartition, Commit | None]) -> None:
        self.owned = set(partitions)
        self.told.append(dict(partitions))

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        self.owned -= set(partitions)


@pytest.fixture
def connection(kafka: str) -> KafkaConnection:
    return KafkaConnection(kafka)


@pytest.fixture
async def admin(connection: KafkaConnection) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=connection.bootstrap_servers)
    await client.start()
    yield client
    await client.close()


@pytest.fixture
async def topic(admin: AIOKafkaAdminClient) -> str:
    name = f"log-{uuid4().hex[:12]}"
    await admin.create_topics([NewTopic(name, 2, 1)])
    return name


@pytest.fixture
async def sink(connection: KafkaConnection) -> AsyncIterator[KafkaSink]:
    opened = KafkaSink(connection, timeout_s=20)
    yield opened
    await opened.close()


async def _read(source: EventSource, count: int) -> list[Record]:
    found: list[Record] = []
    deadline = time.monotonic() + 30
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} records came"
        found.extend(await source.poll(100, 0.2))
    return found


def _messages(topic: str, count: int) -> list[Message]:
    return [
        Message(topic, str(number % 5).encode(), str(number).encode()) for number in range(count)
    ]


async def test_a_killed_static_member_has_its_partitions_back_at_once(
    connection: KafkaConnection, topic: str, sink: KafkaSink
) -> None:
    await sink.publish(_messages(topic, 10))
    member = GroupMember(f"{topic}-g", (topic,), instance_id="embed-0", session_s=10)
    async with KafkaOpenSource(connection, member)(Listener()) as source:
        await _read(source, 10)
    # A static member never says that it leaves; the group keeps its place either way.
    began = time.monotonic()
    async with KafkaOpenSource(connection, member)(Listener()) as source:
        await _read(source, 10)
    assert time.monotonic() - began < 4.0


async def test_a_member_that_gathers_is_answered_at_once_only_when_enough_waits(
    connection: KafkaConnection, topic: str, sink: KafkaSink
) -> None:
    member = GroupMember(f"{topic}-g", (topic,), gather_s=2.0)
    listener = Listener()
    async with KafkaOpenSource(connection, member)(listener) as source:
        while not listener.owned:
            assert not await source.poll(1, 0.2)

        async def taken_s(value: bytes) -> float:
            began = time.monotonic()
            for _ in range(3):
                await sink.publish([Message(topic, b"1", value)])
                await _read(source, 1)
            return time.monotonic() - began

        # Each but the first comes just after an answer, so that all of the wait lies before it.
        assert await taken_s(b"little") > 3.0
        assert await taken_s(random.Random(1).randbytes(GATHERED_BYTES)) < 3.0


async def test_records_deleted_before_they_were_processed_stop_the_member(
    connection: KafkaConnection, topic: str, sink: KafkaSink, admin: AIOKafkaAdminClient
) -> None:
    await sink.publish(_messages(topic, 20))
    member = GroupMember(f"{topic}-g", (topic,))
    async with KafkaOpenSource(connection, member)(Listener()) as source:
        await _read(source, 20)
        await source.commit({TopicPartition(topic, 0): Commit(1)})
    await admin.delete_records({ClientPartition(topic, 0): RecordsToDelete(3)})
    listener = Listener()
    async with KafkaOpenSource(connection, member)(listener) as source:
        with pytest.raises(StalledError, match="2 records were deleted unprocessed"):
            await _read(source, 1)
    assert not listener.told


async def test_a_group_from_another_cluster_is_stopped_not_reset(
    connection: KafkaConnection, topic: str, sink: KafkaSink
) -> None:
    await sink.publish(_messages(topic, 4))
    member = GroupMember(f"{topic}-g", (topic,))
    async with KafkaOpenSource(connection, member)(Listener()) as source:
        await _read(source, 4)
        await source.commit({TopicPartition(topic, 0): Commit(5_000)})
    async with KafkaOpenSource(connection, member)(Listener()) as source:
        with pytest.raises(StalledError, match="stands outside the log"):
            await _read(source, 100)


async def test_long_work_keeps_its_place_in_the_group(
    connection: KafkaConnection, topic: str, sink: KafkaSink
) -> None:
    listener = Listener()
    member = GroupMember(f"{topic}-g", (topic,), session_s=6.0)
    async with KafkaOpenSource(connection, member)(listener) as source:
        await until(lambda: bool(listener.owned), "partitions came")
        source.pause(listener.owned)
        await sink.publish(_messages(topic, 6))
        end = time.monotonic() + 8
        while time.monotonic() < end:
            assert not await source.poll(10, 0.5)
        source.resume(listener.owned)
        records = await _read(source, 6)
        await source.commit({records[-1].topic_partition: Commit(records[-1].offset + 1)})
    assert len(listener.told) == 1


async def test_a_topic_that_does_not_exist_is_named(connection: KafkaConnection) -> None:
    member = GroupMember("g", ("no.such.topic",))
    with pytest.raises(ConfigError, match=r"no\.such\.topic"):
        await KafkaOpenSource(connection, member)(Listener()).__aenter__()
    with pytest.raises(ConfigError, match=r"no\.such\.topic"):
        await KafkaOpenReader(connection)(["no.such.topic"]).__aenter__()


async def test_a_broker_that_is_away_is_told_from_a_wrong_setting(kafka: str) -> None:
    away = KafkaConnection(f"127.0.0.1:{free_port()}")
    with pytest.raises(DependencyDownError, match="BOOTSTRAP_SERVERS"):
        await KafkaOpenSource(away, GroupMember("g", ("t",)))(Listener()).__aenter__()
    with pytest.raises(DependencyDownError):
        await KafkaSink(away).publish([Message("t", b"k", b"v")])
    locked = KafkaConnection(
        kafka, security_protocol="SASL_PLAINTEXT", sasl_username="u", sasl_password="geheim"
    )
    with pytest.raises(ConfigError, match="SASL_PASSWORD") as refused:
        await KafkaOpenSource(locked, GroupMember("g", ("t",)))(Listener()).__aenter__()
    assert "geheim" not in str(refused.value) + repr(locked)


async def test_a_message_that_no_broker_takes_is_poison(sink: KafkaSink, topic: str) -> None:
    for count in (1, 10):
        messages = [*_messages(topic, count), Message(topic, b"1", os.urandom(1_500_000))]
        with pytest.raises(PoisonError) as refused:
            await sink.publish(messages)
        assert refused.value.reason == "message_too_large"
    assert len(await sink.publish(_messages(topic, 3))) == 3


async def test_a_dead_producer_is_replaced(
    sink: KafkaSink, topic: str, connection: KafkaConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sink.publish(_messages(topic, 3))
    first = sink._producer
    # What aiokafka does to itself after a gap in its sequence numbers (its issue 1017).
    first._message_accumulator.fail_all(OutOfOrderSequenceNumber())
    with pytest.raises(Exception, match="OutOfOrder"):
        await sink.publish(_messages(topic, 3))
    assert len(await sink.publish(_messages(topic, 3))) == 3
    assert sink._producer is not first


async def test_an_outage_of_the_broker_loses_nothing_and_heals_by_itself(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path) as broker:
        connection = KafkaConnection(broker.bootstrap_servers)
        client = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
        await client.start()
        await client.create_topics([NewTopic("t", 2, 1)])
        await client.close()
        sink = KafkaSink(connection, timeout_s=1.0)
        member = GroupMember("g", ("t",), instance_id="embed-0")
        async with KafkaOpenSource(connection, member)(Listener()) as source:
            await sink.publish(_messages("t", 10))
            before = await _read(source, 10)
            broker.kill_node(1)
            with pytest.raises(DependencyDownError):
                await sink.publish(_messages("t", 10))
            assert not await source.poll(10, 0.2)
            with pytest.raises(DependencyDownError):
                await source.end_offsets()
            await broker.start_node(1)
            await broker.wait_ready()
            after = await _publish_and_read(sink, source)
            offsets = {r.topic_partition: Commit(r.offset + 1) for r in [*before, *after]}
            await source.commit(offsets)
        await sink.close()
    assert {record.value for record in after} >= {str(n).encode() for n in range(10)}


async def _publish_and_read(sink: KafkaSink, source: EventSource) -> list[Record]:
    """As a worker does after an outage: publish again until it succeeds, then read."""
    deadline = time.monotonic() + 30
    while True:
        try:
            await sink.publish(_messages("t", 10))
            break
        except DependencyDownError:
            assert time.monotonic() < deadline, "the broker stays away"
    return await _read(source, 10)


async def test_a_publish_that_is_cancelled_leaves_nothing_behind(
    sink: KafkaSink, topic: str, background_errors: list[str]
) -> None:
    await sink.publish(_messages(topic, 1))
    for delay_s in (0.0, 0.001, 0.003):
        task = asyncio.create_task(sink.publish(_messages(topic, 400)))
        await asyncio.sleep(delay_s)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert len(await sink.publish(_messages(topic, 50))) == 50
    assert not background_errors


async def test_the_listener_may_commit_while_it_takes_partitions(
    connection: KafkaConnection, topic: str, sink: KafkaSink
) -> None:
    await sink.publish(_messages(topic, 10))
    member = GroupMember(f"{topic}-g", (topic,))
    async with KafkaOpenSource(connection, member)(Listener()) as source:
        records = await _read(source, 10)
        await source.commit({r.topic_partition: Commit(r.offset + 1) for r in records})
    held: list[EventSource] = []

    class Noting(Listener):
        async def assigned(self, partitions: Mapping[TopicPartition, Commit | None]) -> None:
            notes = {place: Commit(c.offset, "2 starts") for place, c in partitions.items() if c}
            await held[0].commit(notes)
            await super().assigned(partitions)

    noting, listener = Noting(), Listener()
    async with KafkaOpenSource(connection, member)(noting) as source:
        held.append(source)
        await until(lambda: bool(noting.owned), "partitions came")
    async with KafkaOpenSource(connection, member)(listener):
        await until(lambda: bool(listener.owned), "partitions came")
    assert {commit.metadata for commit in listener.told[0].values() if commit} == {"2 starts"}


async def test_every_reader_of_many_gets_what_the_log_holds(
    connection: KafkaConnection, sink: KafkaSink, topic: str
) -> None:
    await sink.publish(_messages(topic, 5))
    open_reader = KafkaOpenReader(connection)

    async def read_anew() -> None:
        for _ in range(30):
            async with open_reader([topic]) as source:
                assert len(await _read(source, 5)) == 5

    # Side by side: what one of them does between two turns of another one is what made some
    # readers fall silent.
    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(read_anew())
