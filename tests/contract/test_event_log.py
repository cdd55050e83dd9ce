from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import pytest

from pipeline.errors import StalledError
from pipeline.ports import Commit
from schemas.message import Message, Record, TopicPartition
from tests.log_rig import (
    Listener,
    Log,
    drain,
    log,
    next_offsets,
    read,
    read_nothing,
    servers,
    wait_for_partitions,
)

__all__ = ["log", "servers"]  # fixtures


async def test_publishing_says_where_each_message_lies(log: Log) -> None:
    messages = await log.fill(0) or [
        Message(log.topic, f"key-{number % 5}".encode(), str(number).encode())
        for number in range(40)
    ]
    positions = await log.sink.publish(messages)
    async with log.open_reader([log.topic]) as reader:
        found = {
            (record.topic, record.partition, record.offset): record.value
            for record in await read(reader, 40)
        }
    assert [found[position] for position in positions] == [one.value for one in messages]


async def test_publishing_nothing_is_no_error(log: Log) -> None:
    assert not await log.sink.publish([])


async def test_messages_of_a_key_keep_their_order_in_one_partition(log: Log) -> None:
    for _ in range(3):
        await asyncio.gather(log.fill(2), log.fill(30))
    messages = await log.fill(60)
    async with log.open_reader([log.topic]) as reader:
        records = await read(reader, 3 * 32 + 60)
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
        (record,) = await read(reader, 1)
    assert (record.key, record.value, record.headers) == (b"k", None, headers)
    assert record.timestamp_ms > 1_600_000_000_000


async def test_a_record_can_be_published_again_as_it_was(log: Log) -> None:
    await log.sink.publish([Message(log.topic, b"k", b"v", (("a", b"b"),))])
    async with log.open_reader([log.topic]) as reader:
        (record,) = await read(reader, 1)
        await log.sink.publish([Message(log.topic, record.key, record.value, record.headers)])
        (again,) = await read(reader, 1)
    assert again[3:6] == record[3:6]


async def test_a_new_group_starts_at_the_logs_start_and_is_told_so(log: Log) -> None:
    await log.fill(20)
    listener = Listener()
    async with log.join("new")(listener) as source:
        assert len(await read(source, 20)) == 20
    assert listener.assignments == [
        {TopicPartition(log.topic, number): None for number in range(log.partitions)}
    ]


async def test_committed_positions_and_their_notes_reach_the_next_member(log: Log) -> None:
    await log.fill(20)
    async with log.join("g")(Listener()) as source:
        offsets = next_offsets(await read(source, 20), '{"starts": 1}')
        await source.commit(offsets)
    await log.fill(3)
    listener = Listener()
    async with log.join("g")(listener) as source:
        assert len(await read(source, 3)) == 3
        await read_nothing(source)
    told = {place: commit for place, commit in listener.assignments[0].items() if commit}
    assert told == offsets


async def test_what_was_not_committed_is_delivered_again(log: Log) -> None:
    await log.fill(20)
    async with log.join("g")(Listener()) as source:
        records = await read(source, 20)
        first = [record for record in records if record.offset < 2]
        await source.commit(next_offsets(first))
    async with log.join("g")(Listener()) as source:
        again = await read(source, 20 - len(first))
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

    async def attempt() -> None:
        async with log.join("g")(Slow()) as source:
            while len(seen) < 10:
                seen.extend(await source.poll(100, 0.1))

    reading = asyncio.create_task(attempt())
    await asyncio.sleep(0.6)
    assert not seen
    may_go_on.set()
    async with asyncio.timeout(20):
        await reading


async def test_a_listener_that_fails_stops_the_source(log: Log) -> None:
    async def attempt() -> None:
        async with log.join("g")(Listener(fail_with=StalledError("no"))) as source:
            await read(source, 1)

    with pytest.raises(StalledError):
        await attempt()


async def test_a_paused_partition_waits_while_the_others_flow(log: Log) -> None:
    await log.fill(30)
    listener = Listener()
    async with log.join("g")(listener) as source:
        await wait_for_partitions(source, listener, 0)
        paused = TopicPartition(log.topic, 0)
        source.pause([paused])
        records = await drain(source)
        assert {record.partition for record in records} == {1, 2}
        await log.fill(30)
        assert {record.partition for record in await drain(source)} == {1, 2}
        source.resume([paused])
        late = await drain(source)
    assert {record.partition for record in late} == {0}
    assert [record.offset for record in late] == list(range(len(late)))
    assert len(late) % 2 == 0


async def test_end_offsets_tell_how_much_there_is(log: Log) -> None:
    messages = await log.fill(25)
    listener = Listener()
    async with log.join("g")(listener) as source:
        await read(source, 25)
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
        assert len(await read(reader, 26)) == 26


@pytest.mark.parametrize(("start", "expected"), [("earliest", 25), ("latest", 5)])
async def test_a_reader_starts_where_it_is_told(log: Log, start: str, expected: int) -> None:
    await log.fill(20)
    async with log.open_reader([log.topic], start) as reader:
        await log.fill(5)
        assert len(await drain(reader)) == expected


async def test_a_reader_goes_on_from_explicit_offsets(log: Log) -> None:
    await log.fill(30)
    async with log.open_reader([log.topic]) as reader:
        before = await read(reader, 30)
    position = {place: commit.offset - 1 for place, commit in next_offsets(before).items()}
    async with log.open_reader([log.topic], position) as reader:
        again = await drain(reader)
    assert {record[:3] for record in again} == {(*place, at) for place, at in position.items()}


async def test_a_partition_without_a_position_is_read_from_its_start(log: Log) -> None:
    await log.fill(30)
    async with log.open_reader([log.topic], {TopicPartition(log.topic, 0): 0}) as reader:
        assert len(await drain(reader)) == 30


async def test_a_reader_outside_the_log_is_refused(log: Log) -> None:
    await log.fill(5)
    position = {TopicPartition(log.topic, 0): 10_000}

    async def attempt() -> None:
        async with log.open_reader([log.topic], position) as reader:
            await read(reader, 1, limit_s=5)

    with pytest.raises(StalledError):
        await attempt()


async def test_a_reader_does_not_disturb_a_group(log: Log) -> None:
    await log.fill(10)
    listener = Listener()
    async with log.join("g")(listener) as source, log.open_reader([log.topic]) as reader:
        assert len(await read(reader, 10)) == 10
        assert len(await read(source, 10)) == 10
        assert len(listener.assignments) == 1
        assert not listener.revocations
