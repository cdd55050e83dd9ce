from __future__ import annotations

import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from adapters.kafka.admin import KafkaAdmin, check, open_admin
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.sink import KafkaSink
from adapters.kafka.source import GroupMember, KafkaOpenSource
from pipeline.errors import ConfigError, ConflictError, DependencyDownError
from pipeline.ports import Commit
from schemas.images import ImageUploaded
from schemas.message import Message, TopicPartition
from schemas.side_topics import side_topic
from schemas.topics import DAY_MS, TOPICS, Topic
from tests.services import free_port

pytestmark = pytest.mark.needs_kafka


@pytest.fixture
async def admin(kafka: str) -> AsyncIterator[KafkaAdmin]:
    async with open_admin(KafkaConnection(kafka)) as opened:
        yield opened


def _topic(name: str, retention_ms: int | None = DAY_MS, *, single: bool = False) -> Topic:
    return Topic(
        name, ImageUploaded, retention_ms, (), (), lambda event: "k", single_partition=single
    )


async def test_the_table_is_applied_once_and_then_left_alone(admin: KafkaAdmin) -> None:
    first = await admin.apply_topics(partitions=3, replication_factor=1)
    again = await admin.apply_topics(partitions=3, replication_factor=1)
    assert (again.created, again.extended, again.drift) == ((), (), ())
    assert not first.drift
    counts = await admin.topics()
    assert set(TOPICS) <= set(counts)
    assert counts["images.uploaded"] == 3
    assert counts["products.configured"] == 1


async def test_partitions_are_added_and_drift_is_reported_not_mended(admin: KafkaAdmin) -> None:
    name = f"admin-{uuid4().hex[:8]}"
    await admin.apply_topics(partitions=1, replication_factor=1, table=[_topic(name)])
    wanted = [_topic(name, 2 * DAY_MS)]
    report = await admin.apply_topics(partitions=2, replication_factor=1, table=wanted)
    assert report.extended == (name,)
    line = f"{name}: retention.ms is {DAY_MS}, the table says {2 * DAY_MS}"
    assert report.drift == (line,)
    assert (await admin.topics())[name] == 2


async def test_lag_and_times_are_read_from_the_cluster(kafka: str, admin: KafkaAdmin) -> None:
    name = f"admin-{uuid4().hex[:8]}"
    place = TopicPartition(name, 0)
    await admin.apply_topics(partitions=1, replication_factor=1, table=[_topic(name)])
    sink = KafkaSink(KafkaConnection(kafka))
    await sink.publish([Message(name, b"k", b"1")] * 3)
    between_ms = int(time.time() * 1000) + 2
    while time.time() * 1000 <= between_ms + 2:
        continue
    await sink.publish([Message(name, b"k", b"2")] * 2)
    await sink.close()
    assert await admin.offsets_at([name], between_ms) == {place: 3}
    assert await admin.offsets_at([name], between_ms + DAY_MS) == {place: 5}
    assert (await admin.log_ranges([name]))[place] == (0, 5)
    never = await admin.lag(f"{name}-g", [name])
    assert [(row.committed, row.lag_records) for row in never] == [(None, 5)]

    class Quiet:
        async def assigned(self, partitions: object) -> None: ...

        async def revoked(self, partitions: object) -> None: ...

    member = GroupMember(f"{name}-g", (name,))
    async with KafkaOpenSource(KafkaConnection(kafka), member)(Quiet()) as source:
        while not await source.poll(10, 0.2):
            continue
        await source.commit({place: Commit(4, "note")})
    behind = await admin.lag(f"{name}-g", [name])
    assert [(row.committed, row.end, row.lag_records) for row in behind] == [(4, 5, 1)]


async def test_the_check_names_cluster_and_missing_topics(kafka: str, admin: KafkaAdmin) -> None:
    await admin.apply_topics(partitions=3, replication_factor=1)
    assert await admin.cluster_id() in await check(KafkaConnection(kafka))


async def test_the_check_tells_away_from_refused(kafka: str) -> None:
    with pytest.raises(DependencyDownError, match="does not answer"):
        await check(KafkaConnection(f"127.0.0.1:{free_port()}"))
    with pytest.raises(ConfigError, match="SASL_USERNAME"):
        await check(
            KafkaConnection(
                kafka, security_protocol="SASL_PLAINTEXT", sasl_username="u", sasl_password="p"
            )
        )
    with pytest.raises(ConfigError, match="SSL_CAFILE"):
        await check(KafkaConnection(kafka, security_protocol="SSL"))


async def test_a_topic_is_created_once_and_deleted_with_what_it_holds(
    kafka: str, admin: KafkaAdmin
) -> None:
    topic = side_topic(f"admin-{uuid4().hex[:8]}")
    await admin.create_topic(topic, partitions=2, replication_factor=1)
    with pytest.raises(ConflictError, match="exists"):
        await admin.create_topic(topic, partitions=2, replication_factor=1)
    sink = KafkaSink(KafkaConnection(kafka))
    await sink.publish([Message(topic.name, b"k", b"v")])
    await sink.close()
    await admin.delete_topic(topic.name)
    assert topic.name not in await admin.topics()
    await admin.delete_topic(topic.name)
    await admin.create_topic(topic, partitions=1, replication_factor=1)
    assert [held.end for held in (await admin.log_ranges([topic.name])).values()] == [0]
    await admin.delete_topic(topic.name)
