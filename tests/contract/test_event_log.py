from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
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
from pipeline.errors import StalledError, TransientError
from pipeline.ports import Commit, EventSink, EventSource, OpenReader, OpenSource
from schemas.message import Message, Record, TopicPartition
from tests.services import until


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


async def _read(source: EventSource, count: int, *, limit_s: float = 20.0) -> list[Record]:
    found: list[Record] = []
    deadline = time.monotonic() + limit_s
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} records came"
        found.extend(await source.poll(100, 0.2))
    return found


async def _read_nothing(source: EventSource, for_s: float = 0.6) -> None:
    deadline = time.monotonic() + for_s
    while time.monotonic() < deadline:
        assert not await source.poll(100, 0.1)


def _next_offsets(records: Sequence[Record], note: str = "") -> dict[TopicPartition, Commit]:
    offsets: dict[TopicPartition, Commit] = {}
    for record in records:
        offsets[record.topic_partition] = Commit(record.offset + 1, note)
    return offsets


async def test_publishing_says_where_each_message_lies(log: Log) -> None:
    messages = await log.fill(0) or [
        Message(log.topic, f"key-{number % 5}".encode(), str(number).encode())
        for number in range(40)
    ]
    positions = await log.sink.publish(messages)
    async with log.open_reader([log.topic]) as reader:
        read = {
            (record.topic, record.partition, record.offset): record.value
            for record in await _read(reader, 40)
        }
    assert [read[position] for position in positions] == [one.value for one in messages]


async def test_publishing_nothing_is_no_error(log: Log) -> None:
    assert not await log.sink.publish([])


async def test_messages_of_a_key_keep_their_order_in_one_partition(log: Log) -> None:
    for _ in range(3):
        await asyncio.gather(log.fill(2), log.fill(30))
    messages = await log.fill(60)
    async with log.open_reader([log.topic]) as reader:
        records = await _read(reader, 3 * 32 + 60)
    for key in {message.key for message in messages}:
        ours = [record for record in records if record.key == key]
        assert len({record.partition for record in ours}) == 1
        last = [record.value for record in ours if int(record.value or b"0") < 60]
        wanted = [message.value for message in messages if message.key == key]
        assert last[-len(wanted) :] == wanted


async def test_headers_and_absent_values_survive(log: Log) -> None:
    headers = (("ce_id", b"1"), ("ce_id", b"2"), ("traceparent", "ü".encode()))
    await log.sink.publish([Message(log.topic, b"k", None, headers)])
    async with log.open_reader([log.topic]) as reader:
        (record,) = await _read(reader, 1)
    assert (record.key, record.value, record.headers) == (b"k", None, headers)
    assert record.timestamp_ms > 1_600_000_000_000


async def test_a_record_can_be_published_again_as_it_was(log: Log) -> None:
    await log.sink.publish([Message(log.topic, b"k", b"v", (("a", b"b"),))])
    async with log.open_reader([log.topic]) as reader:
        (record,) = await _read(reader, 1)
        await log.sink.publish([Message(log.topic, record.key, record.value, record.headers)])
        (again,) = await _read(reader, 1)
    assert again[3:6] == record[3:6]


async def test_a_new_group_starts_at_the_logs_start_and_is_told_so(log: Log) -> None:
    await log.fill(20)
    listener = Listener()
    async with log.join("new")(listener) as source:
        assert len(await _read(source, 20)) == 20
    assert listener.assignments == [
        {TopicPartition(log.topic, number): None for number in range(log.partitions)}
    ]


async def test_committed_positions_and_their_notes_reach_the_next_member(log: Log) -> None:
    await log.fill(20)
    async with log.join("g")(Listener()) as source:
        offsets = _next_offsets(await _read(source, 20), '{"starts": 1}')
        await source.commit(offsets)
    await log.fill(3)
    listener = Listener()
    async with log.join("g")(listener) as source:
        assert len(await _read(source, 3)) == 3
        await _read_nothing(source)
    told = {place: commit for place, commit in listener.assignments[0].items() if commit}
    assert told == offsets


async def test_what_was_not_committed_is_delivered_again(log: Log) -> None:
    await log.fill(20)
    async with log.join("g")(Listener()) as source:
        records = await _read(source, 20)
        first = [record for record in records if record.offset < 2]
        await source.commit(_next_offsets(first))
    async with log.join("g")(Listener()) as source:
        again = await _read(source, 20 - len(first))
    assert {record[:3] for record in again} == {
        record[:3] for record in records if record.offset > 1
    }


async def test_nothing_flows_before_the_listener_has_taken_the_partitions(log: Log) -> None:
    await log.fill(10)
    may_go_on = asyncio.Event()
    seen: list[Record] = []

    class Slow(Listener):
        async def assigned(self, partitions: Mapping[TopicPartition, Commit | None]) -> None:
            await may_go_on.wait()
            await super().assigned(partitions)

    async def read() -> None:
        async with log.join("g")(Slow()) as source:
            while len(seen) < 10:
                seen.extend(await source.poll(100, 0.1))

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.6)
    assert not seen
    may_go_on.set()
    async with asyncio.timeout(20):
        await reading


async def test_a_listener_that_fails_stops_the_source(log: Log) -> None:
    async def read() -> None:
        async with log.join("g")(Listener(fail_with=StalledError("no"))) as source:
            await _read(source, 1)

    with pytest.raises(StalledError):
        await read()


async def test_a_paused_partition_waits_while_the_others_flow(log: Log) -> None:
    await log.fill(30)
    listener = Listener()
    async with log.join("g")(listener) as source:
        await _wait_for_partitions(source, listener, 0)
        paused = TopicPartition(log.topic, 0)
        source.pause([paused])
        records = await _drain(source)
        assert {record.partition for record in records} == {1, 2}
        await log.fill(30)
        assert {record.partition for record in await _drain(source)} == {1, 2}
        source.resume([paused])
        late = await _drain(source)
    assert {record.partition for record in late} == {0}
    assert [record.offset for record in late] == list(range(len(late)))
    assert len(late) % 2 == 0


async def _wait_for_partitions(source: EventSource, listener: Listener, records: int) -> None:
    """Poll without taking records until partitions came."""
    deadline = time.monotonic() + 20
    while not listener.owned:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert records == 0


async def _drain(source: EventSource) -> list[Record]:
    """Read until nothing came for a while."""
    found: list[Record] = []
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < 0.6:
        records = await source.poll(100, 0.1)
        if records:
            found.extend(records)
            quiet_since = time.monotonic()
    return found


async def test_two_members_share_the_partitions_and_commit_when_they_hand_over(log: Log) -> None:
    await log.fill(30)
    first, second = Listener(), Listener()
    seen: list[Record] = []
    async with log.join("g")(first) as one:
        seen.extend(await _read(one, 30))
        first.on_revoked = lambda: one.commit(_next_offsets(seen))
        async with log.join("g")(second) as two:
            async with _polled(one, two) as later:
                await until(
                    lambda: (
                        bool(second.owned)
                        and len(first.owned | second.owned) == log.partitions
                        and not first.owned & second.owned
                    ),
                    "the partitions are shared",
                )
            assert not later
            first.on_revoked = lambda: None
            await log.fill(30)
            shares = [await _drain(one), await _drain(two)]
            assert len(first.revocations[0]) == log.partitions
            assert {record.topic_partition for record in shares[0]} == first.owned
            assert {record.topic_partition for record in shares[1]} == second.owned
            assert sum(map(len, shares)) == 30


@asynccontextmanager
async def _polled(*sources: EventSource) -> AsyncIterator[list[Record]]:
    """Keep polling as a worker does, so that rebalances go on; yields what came meanwhile."""
    found: list[Record] = []
    enough = asyncio.Event()

    async def poll(source: EventSource) -> None:
        while not enough.is_set():
            found.extend(await source.poll(100, 0.05))

    tasks = [asyncio.create_task(poll(source)) for source in sources]
    try:
        yield found
    finally:
        enough.set()
        await asyncio.gather(*tasks)


async def test_a_pause_outlives_a_rebalance_until_it_is_undone(log: Log) -> None:
    first, second = Listener(), Listener()
    async with log.join("g")(first) as one:
        await until(lambda: len(first.owned) == log.partitions, "all partitions came")
        one.pause(first.owned)
        async with log.join("g")(second) as two, _polled(two):
            async with _polled(one) as early:
                await until(lambda: bool(second.owned) and not first.owned & second.owned, "shared")
            await log.fill(60)
            early += await _drain(one)
            assert not early
            one.resume([TopicPartition(log.topic, number) for number in range(log.partitions)])
            assert {record.topic_partition for record in await _drain(one)} == first.owned


async def test_partitions_of_a_member_that_left_go_to_the_others(log: Log) -> None:
    await log.fill(10)
    first, second = Listener(), Listener()
    async with log.join("g")(first) as one:
        async with log.join("g")(second) as two, _polled(one, two):
            await until(lambda: bool(second.owned and first.owned - second.owned), "both own some")
        async with _polled(one):
            await until(lambda: len(first.owned) == log.partitions, "the first owns all again")


async def test_a_commit_for_partitions_that_went_elsewhere_is_refused(log: Log) -> None:
    await log.fill(10)
    first, second = Listener(), Listener()
    async with log.join("g")(first) as one:
        records = await _read(one, 10)
        async with log.join("g")(second) as two:
            async with _polled(one, two):
                await until(lambda: bool(second.owned) and len(first.assignments) > 1, "shared")
            lost = next(iter(second.owned))
            with pytest.raises(TransientError):
                await one.commit({lost: Commit(1)})
    assert records


async def test_end_offsets_tell_how_much_there_is(log: Log) -> None:
    messages = await log.fill(25)
    listener = Listener()
    async with log.join("g")(listener) as source:
        await _read(source, 25)
        ends = await source.end_offsets()
        assert set(ends) == listener.owned
    assert sum(ends.values()) == len(messages)


async def test_a_poll_without_records_ends_in_time(log: Log) -> None:
    async with log.open_reader([log.topic]) as reader:
        began = time.monotonic()
        assert not await reader.poll(10, 0.2)
        assert 0.1 < time.monotonic() - began < 2.0


async def test_a_poll_returns_no_more_than_it_was_asked_for(log: Log) -> None:
    await log.fill(30)
    async with log.open_reader([log.topic]) as reader:
        assert 0 < len(await reader.poll(4, 5.0)) <= 4
        assert len(await _read(reader, 26)) == 26


@pytest.mark.parametrize(("start", "expected"), [("earliest", 25), ("latest", 5)])
async def test_a_reader_starts_where_it_is_told(log: Log, start: str, expected: int) -> None:
    await log.fill(20)
    async with log.open_reader([log.topic], start) as reader:
        await log.fill(5)
        assert len(await _drain(reader)) == expected


async def test_a_reader_goes_on_from_explicit_offsets(log: Log) -> None:
    await log.fill(30)
    async with log.open_reader([log.topic]) as reader:
        before = await _read(reader, 30)
    position = {place: commit.offset - 1 for place, commit in _next_offsets(before).items()}
    async with log.open_reader([log.topic], position) as reader:
        again = await _drain(reader)
    assert {record[:3] for record in again} == {(*place, at) for place, at in position.items()}


async def test_a_partition_without_a_position_is_read_from_its_start(log: Log) -> None:
    await log.fill(30)
    async with log.open_reader([log.topic], {TopicPartition(log.topic, 0): 0}) as reader:
        assert len(await _drain(reader)) == 30


async def test_a_reader_outside_the_log_is_refused(log: Log) -> None:
    await log.fill(5)
    position = {TopicPartition(log.topic, 0): 10_000}

    async def read() -> None:
        async with log.open_reader([log.topic], position) as reader:
            await _read(reader, 1, limit_s=5)

    with pytest.raises(StalledError):
        await read()


async def test_a_reader_does_not_disturb_a_group(log: Log) -> None:
    await log.fill(10)
    listener = Listener()
    async with log.join("g")(listener) as source, log.open_reader([log.topic]) as reader:
        assert len(await _read(reader, 10)) == 10
        assert len(await _read(source, 10)) == 10
        assert len(listener.assignments) == 1
        assert not listener.revocations
