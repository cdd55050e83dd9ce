"""A log that ends with a transaction's mark is read to its end by who read its last record."""

from __future__ import annotations

from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as ClientPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from adapters.kafka import gaps
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.progress import KafkaProgress
from pipeline.reconciling import has_passed
from schemas.message import TopicPartition

pytestmark = pytest.mark.needs_kafka


@pytest.fixture
async def topic(kafka: str) -> str:
    name = f"progress-{uuid4().hex[:12]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(name, 1, 1)])
    await admin.close()
    return name


async def write(kafka: str, topic: str, *transactions: tuple[int, bool]) -> None:
    """Write transactions of so many records each, kept or taken back."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=f"tx-{topic}")
    await producer.start()
    for count, is_kept in transactions:
        await producer.begin_transaction()
        for number in range(count):
            await producer.send_and_wait(topic, b"%d" % number)
        await (producer.commit_transaction() if is_kept else producer.abort_transaction())
    await producer.stop()


async def commit(kafka: str, topic: str, offset: int) -> None:
    reader = AIOKafkaConsumer(
        bootstrap_servers=kafka, group_id=f"{topic}-g", enable_auto_commit=False
    )
    await reader.start()
    reader.assign([ClientPartition(topic, 0)])
    await reader.commit({ClientPartition(topic, 0): offset})
    await reader.stop()


async def test_a_group_that_read_the_last_record_has_passed_the_marks_behind_it(
    kafka: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    look = gaps._look

    async def counted(*given: object) -> object:
        nonlocal looks
        looks += 1
        return await look(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(gaps, "_look", counted)
    group, place = f"{topic}-g", TopicPartition(topic, 0)
    progress = KafkaProgress(KafkaConnection(kafka))

    async def passed(calls: int = 2) -> bool:
        for _ in range(calls):
            found = await progress({group: [topic]})
        return has_passed(found, group, {place: found.end[place]})

    # Two records and a mark, then three that were taken back and their mark.
    await write(kafka, topic, (2, True), (3, False))
    await commit(kafka, topic, 1)
    assert not await passed()
    await commit(kafka, topic, 2)
    assert await passed()
    assert await passed(5)
    assert looks == 2  # one for each position, however often it is asked
    await write(kafka, topic, (1, True))
    assert not await passed(3)
    assert looks == 3
