from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pipeline.errors import TransientError
from pipeline.ports import Commit, EventSource
from schemas.message import Record, TopicPartition
from tests.log_rig import (
    Listener,
    Log,
    drain,
    log,
    next_offsets,
    read,
    servers,
)
from tests.services import until

__all__ = ["log", "servers"]  # fixtures


async def test_two_members_share_the_partitions_and_commit_when_they_hand_over(log: Log) -> None:
    await log.fill(30)
    first, second = Listener(), Listener()
    seen: list[Record] = []
    async with log.join("g")(first) as one:
        seen.extend(await read(one, 30))
        first.on_revoked = lambda: one.commit(next_offsets(seen))
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
            shares = [await drain(one), await drain(two)]
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
            early += await drain(one)
            assert not early
            one.resume([TopicPartition(log.topic, number) for number in range(log.partitions)])
            assert {record.topic_partition for record in await drain(one)} == first.owned


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
        records = await read(one, 10)
        async with log.join("g")(second) as two:
            async with _polled(one, two):
                await until(lambda: bool(second.owned) and len(first.assignments) > 1, "shared")
            lost = next(iter(second.owned))
            with pytest.raises(TransientError):
                await one.commit({lost: Commit(1)})
    assert records


async def test_behind_a_backlog_no_partition_waits_until_another_is_empty(log: Log) -> None:
    await log.fill(900, keys=60)
    seen: Counter[int] = Counter()
    deadline = time.monotonic() + 20
    async with log.join("turns")(Listener()) as source:
        while seen.total() < 200:
            assert time.monotonic() < deadline
            seen.update(record.partition for record in await source.poll(20, 0.2))
    assert len(seen) == log.partitions
    assert min(seen.values()) >= 40
