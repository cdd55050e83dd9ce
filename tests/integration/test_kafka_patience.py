"""How long the broker may hold a fetch: seen in the requests that a reader sends it."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.protocol.fetch import FetchRequest

from adapters.kafka.connection import KafkaConnection
from adapters.kafka.patience import LEFT_OUT_WAIT_MS, WAIT_MS
from adapters.kafka.reader import KafkaOpenReader, KafkaReader
from adapters.kafka.sink import KafkaSink
from schemas.message import Message, TopicPartition

pytestmark = pytest.mark.needs_kafka


@pytest.fixture
async def topic(kafka: str) -> str:
    """Two partitions."""
    name = f"patience-{uuid4().hex[:12]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 2, 1)])
    finally:
        await admin.close()
    return name


class Waits:
    """Notes the wait of every fetch that a reader sends from now on."""

    def __init__(self, reader: KafkaReader) -> None:
        client = reader._consumer._client
        self._send, self._noted = client.send, asyncio.Queue[int]()
        client.send = self._note

    async def _note(self, node: int, request: Any, **options: Any) -> Any:
        if isinstance(request, FetchRequest):
            self._noted.put_nowait(request._max_wait_ms)
        return await self._send(node, request, **options)

    async def until(self, wait_ms: int) -> None:
        async with asyncio.timeout(20):
            while await self._noted.get() != wait_ms:
                pass


async def test_a_fetch_waits_long_only_when_no_partition_is_left_out(
    kafka: str, topic: str
) -> None:
    async with KafkaOpenReader(KafkaConnection(kafka))([topic]) as reader:
        assert isinstance(reader, KafkaReader)
        waits = Waits(reader)
        await waits.until(WAIT_MS)
        reader.pause([TopicPartition(topic, 0)])
        await waits.until(LEFT_OUT_WAIT_MS)
        reader.resume([TopicPartition(topic, 0)])
        await waits.until(WAIT_MS)


async def test_a_record_ends_a_long_wait(kafka: str, topic: str) -> None:
    sink = KafkaSink(KafkaConnection(kafka))
    try:
        async with KafkaOpenReader(KafkaConnection(kafka))([topic]) as reader:
            for number in range(3):
                assert isinstance(reader, KafkaReader)
                value = f"{number} {uuid4()}".encode()
                await sink.publish([Message(topic, b"key", value)])
                assert [one.value for one in await reader.poll(10, 20.0)] == [value]
    finally:
        await sink.close()
