"""Of two relays the older one's last batch cannot land behind what the newer one published."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import pytest

from adapters.kafka.admin import open_admin
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.fenced_sink import FencedKafkaSink
from adapters.kafka.reader import KafkaOpenReader
from pipeline.errors import TransientError
from schemas.message import Message
from schemas.topics import TOPICS

pytestmark = pytest.mark.needs_kafka


@pytest.fixture
async def topic(kafka: str) -> str:
    name = f"state-{uuid4().hex[:12]}"
    table = TOPICS["products.configured"]
    async with open_admin(KafkaConnection(kafka)) as admin:
        await admin.create_topic(replace(table, name=name), partitions=1, replication_factor=1)
    return name


@pytest.fixture
async def sinks(kafka: str) -> AsyncIterator[tuple[FencedKafkaSink, FencedKafkaSink]]:
    name = f"relay-{uuid4().hex[:12]}"
    old, new = (FencedKafkaSink(KafkaConnection(kafka), name, timeout_s=20) for _ in range(2))
    yield old, new
    await old.close()
    await new.close()


async def values(kafka: str, topic: str) -> list[bytes | None]:
    found: list[bytes | None] = []
    async with KafkaOpenReader(KafkaConnection(kafka))([topic]) as reader:
        end = sum((await reader.end_offsets()).values())
        while len(found) < end:
            found.extend(record.value for record in await reader.poll(100, 1.0))
    return found


async def test_a_batch_of_a_former_relay_never_lands_behind_its_successors(
    kafka: str, topic: str, sinks: tuple[FencedKafkaSink, FencedKafkaSink]
) -> None:
    old, new = sinks
    first, second = Message(topic, b"cap", b"revision 1"), Message(topic, b"cap", b"revision 2")
    await old.take_over()
    await old.publish([Message(topic, b"lid", b"revision 1")])
    # The old one's batch with `first` left it; its lease went over before it reached the broker.
    await new.take_over()
    await new.publish([first])
    await new.publish([second])
    with pytest.raises(TransientError):
        await old.publish([first])
    # Nor does it come back by itself, which would put out the new one.
    with pytest.raises(TransientError, match="taken over"):
        await old.publish([first])
    await new.publish([Message(topic, b"cap", b"revision 3")])
    assert await values(kafka, topic) == [
        b"revision 1", b"revision 1", b"revision 2", b"revision 3",
    ]  # fmt: skip


async def test_a_relay_that_has_the_lease_again_publishes_again(
    kafka: str, topic: str, sinks: tuple[FencedKafkaSink, FencedKafkaSink]
) -> None:
    for number, sink in enumerate([*sinks, *sinks]):
        await sink.take_over()
        # Many at once, as a backlog goes, and few.
        await sink.publish([Message(topic, b"cap", b"%d" % n) for n in range(10)])
        await sink.publish([Message(topic, b"cap", b"last of %d" % number)])
    assert (await values(kafka, topic))[10::11] == [b"last of %d" % n for n in range(4)]
