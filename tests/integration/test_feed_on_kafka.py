"""The feed on a real broker: positions mean offsets there, and outlive the notifier."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from uuid import uuid4

import pytest

from adapters.kafka.admin import open_admin
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.extent import KafkaDescribeLog
from adapters.kafka.reader import KafkaOpenReader
from adapters.kafka.sink import KafkaSink
from notifier.feed import FEED_TOPICS
from notifier.positions import decode_position, encode_position
from pipeline.ports import LogExtent
from schemas.codec import encode
from schemas.event import Event
from schemas.message import TopicPartition
from tests.feed_rig import FeedRig, scored

pytestmark = pytest.mark.needs_kafka


class KafkaRig(FeedRig):
    """As `FeedRig`, with the broker replaced by a real one."""

    def __init__(self, connection: KafkaConnection, sink: KafkaSink) -> None:
        super().__init__()
        self._describe = KafkaDescribeLog(connection)
        self._sink = sink
        self.broker.open_reader = KafkaOpenReader(connection)  # type: ignore[method-assign] # that is the replacement
        self.feed = self._new_feed()

    async def describe(self, topics: Collection[str]) -> LogExtent:
        return await self._describe(topics)

    async def publish(self, *events: Event) -> list[str]:
        await self._sink.publish([encode(event, source="/test") for event in events])
        return [str(event.event_id) for event in events]


@pytest.fixture
async def rig(kafka: str) -> AsyncIterator[KafkaRig]:
    connection = KafkaConnection(kafka)
    async with open_admin(connection) as admin:
        await admin.apply_topics(partitions=3, replication_factor=1)
    sink = KafkaSink(connection)
    yield KafkaRig(connection, sink)
    await sink.close()


async def test_the_extent_names_cluster_and_range_of_every_partition(rig: KafkaRig) -> None:
    extent = await rig.describe(FEED_TOPICS)
    assert extent.cluster_id
    assert {place.topic for place in extent.end} == set(FEED_TOPICS)
    assert extent.first.keys() == extent.end.keys()


async def test_a_client_misses_nothing_across_a_restart_of_the_notifier(rig: KafkaRig) -> None:
    source = uuid4().hex
    async with rig.notifier(), rig.client(sources=[source]) as client:
        before = await rig.publish(*(scored(number, source=source) for number in range(20)))
        assert sorted(await client.ids(20)) == sorted(before)
        position = client.position
    missed = await rig.publish(*(scored(number, source=source) for number in range(700)))
    async with rig.notifier(), rig.client(position, sources=[source]) as client:
        assert client.hello["recovered"] is True
        assert sorted(await client.ids(700)) == sorted(missed)
        after = await rig.publish(scored(1, source=source))
        assert await client.ids(1) == after


async def test_offsets_beyond_the_end_of_a_real_log_are_told(rig: KafkaRig) -> None:
    extent = await rig.describe(FEED_TOPICS)
    place = TopicPartition("images.scored", 0)
    beyond = {**extent.end, place: extent.end[place] + 1000}
    async with rig.notifier():
        async with rig.client(encode_position(extent.cluster_id, beyond)) as client:
            assert client.hello["recovered"] is False
            assert decode_position(client.hello["from"]).offsets[place] <= extent.end[place]
        async with rig.client(encode_position("another-cluster", beyond)) as client:
            assert client.hello["recovered"] is False
