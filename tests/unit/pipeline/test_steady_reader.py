from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from adapters.memory.broker import MemoryBroker
from adapters.memory.clock import VirtualClock
from notifier.feed import FEED_TOPICS, Feed
from notifier.hub import Hub
from pipeline.errors import DependencyDownError, StalledError
from pipeline.lifecycle import Service
from pipeline.ports import Commit, EventSource, LogExtent
from pipeline.replica import Replica
from pipeline.steady_reader import SteadyOpenReader
from schemas.codec import encode
from schemas.configuration import ProductConfigured
from schemas.message import Message, TopicPartition
from tests.feed_rig import scored

TOPIC = "products.configured"


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def broker(clock: VirtualClock) -> MemoryBroker:
    made = MemoryBroker(clock)
    made.add_topic(TOPIC, 1)
    return made


@pytest.fixture
def open_reader(broker: MemoryBroker, clock: VirtualClock) -> SteadyOpenReader:
    return SteadyOpenReader(broker.open_reader, clock)


class Reading:
    """Polls for ever, and keeps what came."""

    def __init__(self, source: EventSource) -> None:
        self.source = source
        self.values: list[bytes | None] = []

    async def run(self) -> None:
        while True:
            self.values += [record.value for record in await self.source.poll(2, 0.5)]


@asynccontextmanager
async def running(service: Service | Reading) -> AsyncIterator[None]:
    task = asyncio.create_task(service.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def say(broker: MemoryBroker, *values: bytes, topic: str = "t", partition: int = 0) -> None:
    for value in values:
        broker.append(Message(topic, b"k", value), partition=partition)


def product(code: str) -> Message:
    now = datetime.now(UTC)
    fields = {"event_id": uuid4(), "occurred_at": now, "product": code, "display_name": code}
    return encode(ProductConfigured.model_validate(fields), source="/test")


@pytest.mark.parametrize("start", ["earliest", "latest", {TopicPartition("t", 0): 1}])
async def test_a_reader_that_stalls_goes_on_where_it_was(
    broker: MemoryBroker,
    clock: VirtualClock,
    open_reader: SteadyOpenReader,
    start: dict[TopicPartition, int] | str,
) -> None:
    broker.add_topic("t", 1)
    say(broker, b"0", b"1")
    async with open_reader(["t"], start) as source, running(reading := Reading(source)):
        say(broker, b"2", b"3", b"4")
        past = {"earliest": [b"0", b"1"], "latest": []}.get(str(start), [b"1"])
        await clock.run_until(lambda: reading.values == [*past, b"2", b"3", b"4"])
        broker.readers[0].stall()
        say(broker, b"5", b"6", b"7")
        await clock.run_until(lambda: len(reading.values) == len(past) + 6, limit_s=6)
        assert reading.values == [*past, b"2", b"3", b"4", b"5", b"6", b"7"]
        assert len(broker.readers) == 1
    assert broker.readers == []


@pytest.mark.parametrize("start", ["earliest", "latest"])
async def test_a_reader_that_never_brought_anything_is_replaced(
    broker: MemoryBroker, clock: VirtualClock, open_reader: SteadyOpenReader, start: str
) -> None:
    say(broker, b"old")
    async with open_reader(["t"], start) as source, running(reading := Reading(source)):
        broker.readers[0].stall()
        say(broker, b"new")
        wanted = [b"old", b"new"] if start == "earliest" else [b"new"]
        await clock.run_until(lambda: reading.values == wanted, limit_s=6)


async def test_one_stalled_partition_is_noticed_while_another_one_flows(
    broker: MemoryBroker, clock: VirtualClock, open_reader: SteadyOpenReader
) -> None:
    broker.add_topic("t", 2)
    async with open_reader(["t"]) as source, running(reading := Reading(source)):
        broker.readers[0].stall(TopicPartition("t", 1))
        say(broker, b"stuck", partition=1)
        for number in range(60):
            say(broker, b"%d" % number)
            await clock.advance(0.1)
        assert reading.values.count(b"stuck") == 1
        assert [value for value in reading.values if value != b"stuck"] == [
            b"%d" % number for number in range(60)
        ]


async def test_a_paused_partition_is_not_taken_for_a_stalled_one(
    broker: MemoryBroker, clock: VirtualClock, open_reader: SteadyOpenReader
) -> None:
    broker.add_topic("t", 2)
    zero, one = TopicPartition("t", 0), TopicPartition("t", 1)
    async with open_reader(["t"]) as source, running(reading := Reading(source)):
        first = broker.readers[0]
        source.pause([zero])
        say(broker, b"waits")
        await clock.advance(30)
        assert broker.readers == [first]
        first.stall(one)
        say(broker, b"comes", partition=1)
        await clock.run_until(lambda: reading.values == [b"comes"], limit_s=6)
        await clock.advance(10)
        assert reading.values == [b"comes"]  # the fresh reader is paused as the first one was
        source.resume([zero])
        await clock.run_until(lambda: reading.values == [b"comes", b"waits"])


async def test_an_end_that_no_reader_reaches_is_tried_ever_less_often(
    broker: MemoryBroker,
    clock: VirtualClock,
    open_reader: SteadyOpenReader,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker.end = lambda place: 5 + place.partition  # type: ignore[method-assign] # aborted transactions
    async with open_reader([TOPIC]) as source, running(Reading(source)):
        await clock.advance(600)
    assert 5 <= len(caplog.records) <= 12


async def test_a_log_of_which_all_is_deleted_is_no_stall_and_what_comes_then_is(
    broker: MemoryBroker, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    place = TopicPartition(TOPIC, 0)
    end, asked = 5, 0
    broker.end = lambda place: end + place.partition  # type: ignore[method-assign] # it held five, all past their time

    async def describe(topics: Collection[str]) -> LogExtent:
        nonlocal asked
        asked += 1
        assert [*topics] == [TOPIC]
        return LogExtent("one", {place: 5}, {place: end})

    open_reader = SteadyOpenReader(broker.open_reader, clock, describe)
    async with open_reader([TOPIC]) as source, running(Reading(source)):
        await clock.advance(600)
        assert (caplog.records, asked) == ([], 1)
        end = 6
        await clock.advance(10)
    assert [record.action for record in caplog.records] == ["reader_reopened"]  # type: ignore[attr-defined]


async def test_a_broker_that_went_away_in_silence_is_noticed(
    broker: MemoryBroker, clock: VirtualClock, open_reader: SteadyOpenReader
) -> None:
    class Silent(Reading):
        async def run(self) -> None:
            with pytest.raises(DependencyDownError):
                await super().run()
            self.values.append(b"noticed")

    class Mute:
        """A client whose polls do not tell that the broker is away."""

        async def poll(self, _max_records: int, timeout_s: float) -> list[None]:
            await clock.sleep(timeout_s)
            return []

    async with open_reader([TOPIC]) as source:
        broker.readers[0].poll = Mute().poll  # type: ignore[assignment] # that is the fault
        async with running(reading := Silent(source)):
            await clock.advance(1)
            broker.is_down = True
            await clock.run_until(lambda: reading.values == [b"noticed"], limit_s=4)


async def test_a_steady_reader_has_no_group_either(open_reader: SteadyOpenReader) -> None:
    async with open_reader([TOPIC]) as source:
        with pytest.raises(StalledError):
            await source.commit({TopicPartition(TOPIC, 0): Commit(1, "")})


async def test_a_replica_finds_what_its_stalled_reader_hides_and_applies_it_once(
    broker: MemoryBroker, clock: VirtualClock, open_reader: SteadyOpenReader
) -> None:
    told: list[str] = []

    async def note(event: ProductConfigured) -> None:
        told.append(event.product)

    replica = Replica(open_reader, TOPIC, key=lambda event: str(event.product), on_change=note)
    broker.append(product("a"))
    async with running(replica):
        await clock.run_until(lambda: replica.get("a") is not None)
        broker.readers[0].stall()
        broker.append(product("b"))
        looking = asyncio.create_task(replica.lookup("b"))
        await clock.run_until(looking.done, limit_s=6)
        assert looking.result().product == "b"
        broker.append(product("c"))
        await clock.run_until(lambda: replica.get("c") is not None)
    assert told == ["a", "b", "c"]


async def test_the_feed_gets_past_a_stalled_reader_without_loss_or_doubling(
    broker: MemoryBroker, clock: VirtualClock, open_reader: SteadyOpenReader
) -> None:
    async def describe(topics: object) -> LogExtent:
        assert topics == FEED_TOPICS
        places = broker.places(FEED_TOPICS)
        return LogExtent("c", dict.fromkeys(places, 0), {one: broker.end(one) for one in places})

    hub = Hub()
    feed = Feed(hub, open_reader, describe, clock=clock)
    offsets: list[int] = []
    publish = hub.publish

    def note(place: TopicPartition, offset: int, *told: Any) -> None:
        offsets.append(offset)
        publish(place, offset, *told)

    hub.publish = note  # type: ignore[method-assign,assignment] # to see each
    message = encode(scored(1), source="/test")
    async with running(feed):
        await clock.run_until(lambda: not feed.is_away)
        for _ in range(3):
            broker.append(message, partition=0)
        await clock.run_until(lambda: len(offsets) == 3)
        broker.readers[0].stall()
        for _ in range(4):
            broker.append(message, partition=0)
        await clock.run_until(lambda: len(offsets) == 7, limit_s=6)
        assert not feed.is_away
    assert offsets == list(range(7))
