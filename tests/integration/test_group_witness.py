"""What an outsider sees of a group member on Apache Kafka, and what must not look like a freeze."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from adapters.kafka.connection import KafkaConnection
from adapters.kafka.source import GroupMember, KafkaOpenSource
from adapters.kafka.witness import KafkaPeek, KafkaWitness
from pipeline.errors import DependencyDownError
from pipeline.ports import EventSource, WitnessView
from schemas.message import TopicPartition
from tests.log_rig import Listener, read
from tests.services import free_port

pytestmark = pytest.mark.needs_kafka


@pytest.fixture
async def topic(kafka: str) -> AsyncIterator[str]:
    name = f"witness-{uuid4().hex[:12]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(name, 1, 1)])
    yield name
    await admin.close()


def member_of(kafka: str, topic: str, name: str) -> KafkaOpenSource:
    member = GroupMember(f"{topic}-g", (topic,), instance_id=name, session_s=6)
    return KafkaOpenSource(KafkaConnection(kafka), member)


async def seen_at_rest(
    witness: KafkaWitness, source: EventSource, listener: Listener
) -> WitnessView:
    """What is seen of a member once its group is at rest, and it took what it was given."""
    deadline = time.monotonic() + 30
    while True:
        await source.poll(100, 0.1)
        view = await witness(source)
        taken = view.assigned == frozenset(listener.owned) == frozenset(view.positions)
        if view.is_stable and view.is_member and taken:
            return view
        assert time.monotonic() < deadline, view


async def test_a_member_and_a_surplus_one_are_seen_with_what_the_group_gave_them(
    kafka: str, topic: str
) -> None:
    witness = KafkaWitness(KafkaConnection(kafka), f"{topic}-g")
    place = TopicPartition(topic, 0)
    listener, other = Listener(), Listener()
    async with member_of(kafka, topic, "a")(listener) as source:
        view = await seen_at_rest(witness, source, listener)
        assert view.assigned == frozenset({place}) == frozenset(listener.owned)
        assert (view.positions, view.ends) == ({place: 0}, {place: 0})
        async with member_of(kafka, topic, "b")(other) as second:
            polling = asyncio.create_task(_poll(source))
            surplus = await seen_at_rest(witness, second, other)
            polling.cancel()
            assert {len(surplus.assigned), len((await witness(source)).assigned)} == {0, 1}


async def _poll(source: EventSource) -> None:
    while True:
        await source.poll(100, 0.2)


async def test_markers_of_transactions_at_the_logs_end_are_not_records_that_wait(
    kafka: str, topic: str
) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=f"{topic}-t")
    await producer.start()
    place = TopicPartition(topic, 0)
    witness = KafkaWitness(KafkaConnection(kafka), f"{topic}-g")
    listener = Listener()
    async with member_of(kafka, topic, "a")(listener) as source:
        async with producer.transaction():
            await producer.send_and_wait(topic, b"committed")
        await read(source, 1)
        view = await seen_at_rest(witness, source, listener)
        assert view.positions[place] == view.ends[place] == 2
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"open")
        await source.poll(100, 0.5)
        view = await witness(source)
        assert view.positions[place] == view.ends[place], "what is not committed does not wait"
        await producer.abort_transaction()
        deadline = time.monotonic() + 20
        while (view := await witness(source)).positions[place] != view.ends[place]:
            assert time.monotonic() < deadline, view
            await source.poll(100, 0.2)
    await producer.stop()


async def test_a_broker_that_is_away_is_told_from_one_that_says_nothing() -> None:
    away = KafkaWitness(KafkaConnection(f"127.0.0.1:{free_port()}"), "g")
    with pytest.raises(DependencyDownError):
        await away(None)
    taken: list[asyncio.StreamWriter] = []
    mute = await asyncio.start_server(lambda _, writer: taken.append(writer), "127.0.0.1", 0)
    port = mute.sockets[0].getsockname()[1]
    witness = KafkaWitness(KafkaConnection(f"127.0.0.1:{port}"), "g", answer_limit_s=1.0)
    assert await witness(None) == WitnessView(answers=False)
    mute.close()
    for writer in taken:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_one_silent_broker_of_several_is_no_silence(kafka: str) -> None:
    taken: list[asyncio.StreamWriter] = []
    mute = await asyncio.start_server(lambda _, writer: taken.append(writer), "127.0.0.1", 0)
    port = mute.sockets[0].getsockname()[1]
    both = KafkaConnection(f"127.0.0.1:{port},{kafka}")
    witness = KafkaWitness(both, "nobody", answer_limit_s=1.0)
    looks = 0
    # Each look knocks once; the client then takes the addresses in any order.
    while len(taken) <= looks:
        looks += 1
        with contextlib.suppress(DependencyDownError):
            assert (await witness(None)).answers
    mute.close()
    for writer in taken:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_a_look_at_the_log_finds_the_next_record_and_when_it_came(
    kafka: str, topic: str
) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()
    for number in range(3):
        written = await producer.send_and_wait(topic, str(number).encode())
    await producer.stop()
    peek = KafkaPeek(KafkaConnection(kafka))
    place = TopicPartition(topic, 0)
    first = (await peek({place: None}))[place]
    assert first.offset == 0
    last = (await peek({place: 2}))[place]
    assert last.offset == 2
    assert abs(last.timestamp_ms - time.time() * 1000) < 60_000
    assert written.offset == 2
