"""G7: a Kafka client that is dead inside and says nothing (aiokafka issues 983, 1154)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from adapters.clock import SystemClock
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.sink import KafkaSink
from adapters.kafka.source import GroupMember, KafkaOpenSource
from adapters.kafka.witness import KafkaWitness
from pipeline.guard import GuardedOpenSource
from pipeline.telemetry import MetricName, NullTelemetry
from pipeline.watchdog import WatchPolicy
from schemas.message import Message
from tests.log_rig import Listener, next_offsets, read

pytestmark = pytest.mark.needs_kafka

POLICY = WatchPolicy(look_every_s=0.5, patience_s=2.0)


class Rebuilds(NullTelemetry):
    """Notes why members were replaced."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def count(self, name: MetricName, n: float = 1, **labels: str) -> None:
        if name == "member_rebuilds":
            self.reasons.append(labels["reason"])


@pytest.fixture
async def topic(kafka: str) -> AsyncIterator[str]:
    name = f"dead-tasks-{uuid4().hex[:12]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(name, 2, 1)])
    yield name
    await admin.close()


def kill_fetching(consumer: Any) -> None:
    consumer._fetcher._fetch_task.cancel()
    for task in consumer._fetcher._pending_tasks:
        task.cancel()


def lose_heartbeats(consumer: Any) -> None:
    """The client believes that each was answered; the group hears none."""

    async def unsent() -> bool:
        return True

    consumer._coordinator._do_heartbeat = unsent


@pytest.mark.parametrize(
    ("kill", "reason"), [(kill_fetching, "deaf"), (lose_heartbeats, "forgotten")]
)
async def test_a_client_whose_task_died_in_silence_is_replaced_and_reading_goes_on(
    kafka: str, topic: str, kill: Any, reason: str
) -> None:
    connection = KafkaConnection(kafka)
    member = GroupMember(f"{topic}-g", (topic,), instance_id="a", session_s=6)
    rebuilds, listener = Rebuilds(), Listener()
    opening = GuardedOpenSource(
        KafkaOpenSource(connection, member),
        KafkaWitness(connection, member.group),
        SystemClock(),
        rebuilds,
        "embed",
        POLICY,
    )
    sink = KafkaSink(connection)
    async with opening(listener) as source:
        await sink.publish([Message(topic, b"k", b"before")])
        await source.commit(next_offsets(await read(source, 1)))
        kill(source._member._consumer)  # type: ignore[attr-defined] # what no port shows
        deadline = time.monotonic() + 40
        if reason == "forgotten":  # it reads on, and nobody counts on it
            while not rebuilds.reasons:
                assert time.monotonic() < deadline
                await source.poll(10, 0.2)
        await sink.publish([Message(topic, b"k", b"after")])
        (record,) = await read(source, 1, limit_s=40)
        await source.commit(next_offsets([record]))
    await sink.close()
    assert record.value == b"after"
    assert rebuilds.reasons == [reason]
    assert len(listener.assignments) == 2
