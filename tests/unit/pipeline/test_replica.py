from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from pipeline.errors import DependencyDownError, StalledError, TransientError
from pipeline.ports import Commit, EventSource
from pipeline.replica import Replica
from pipeline.telemetry import MetricName, NullTelemetry
from schemas.codec import encode
from schemas.configuration import ProductConfigured
from schemas.message import Record, TopicPartition
from tests.services import until

TOPIC = "products.configured"
PLACE = TopicPartition(TOPIC, 0)


def _product(code: str, revision: int = 1, *, removed: bool = False) -> ProductConfigured:
    return ProductConfigured(
        event_id=uuid4(),
        occurred_at=datetime.now(UTC),
        product=code,
        display_name=code,
        revision=revision,
        removed=removed,
    )


class OnePartition:
    """A log of one partition, in memory; `away` makes every call fail."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.away = False
        self.end_beyond = 0
        self.opened_at: list[Mapping[TopicPartition, int] | str] = []
        self._grown = asyncio.Event()

    def append(self, event: ProductConfigured | bytes) -> None:
        value = event if isinstance(event, bytes) else encode(event, source="/t").value
        self.records.append(Record(TOPIC, 0, len(self.records), b"k", value))
        self._grown.set()

    @asynccontextmanager
    async def __call__(
        self, topics: Collection[str], start: Mapping[TopicPartition, int] | str = "earliest"
    ) -> AsyncIterator[EventSource]:
        assert list(topics) == [TOPIC]
        self._check()
        self.opened_at.append(start)
        yield Cursor(self, 0 if isinstance(start, str) else start[PLACE])

    def _check(self) -> None:
        if self.away:
            raise DependencyDownError("kafka", "away")


class Cursor:
    def __init__(self, log: OnePartition, position: int) -> None:
        self._log = log
        self._position = position

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        self._log._check()
        if self._position >= len(self._log.records):
            self._log._grown.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._log._grown.wait(), min(timeout_s, 0.02))
        found = self._log.records[self._position :][:max_records]
        self._position += len(found)
        return found

    # A replica reads everything: should it ever ask for these two, its test must fail.
    def pause(self, partitions: Collection[TopicPartition]) -> None:
        raise NotImplementedError

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        raise NotImplementedError

    async def commit(self, offsets: Mapping[TopicPartition, Commit]) -> None:
        raise StalledError("a replica never commits")

    async def end_offsets(self) -> Mapping[TopicPartition, int]:
        self._log._check()
        return {PLACE: len(self._log.records) + self._log.end_beyond}


@asynccontextmanager
async def _following(replica: Replica) -> AsyncIterator[None]:
    task = asyncio.create_task(replica.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _by_code(event: ProductConfigured) -> str:
    return event.product


async def test_the_newest_event_of_a_key_counts() -> None:
    log = OnePartition()
    log.append(_product("볼트", 1))
    log.append(_product("cell", 1))
    log.append(_product("볼트", 2))
    replica = Replica(log, TOPIC, key=_by_code)
    assert replica.not_ready()
    async with _following(replica):
        await replica.wait_caught_up()
        assert replica.get("볼트").revision == 2
        assert {one.product for one in replica.values()} == {"볼트", "cell"}
        assert not replica.not_ready()


async def test_an_empty_topic_is_caught_up_at_once() -> None:
    replica = Replica(OnePartition(), TOPIC, key=_by_code)
    async with _following(replica), asyncio.timeout(2):
        await replica.wait_caught_up()
    assert replica.values() == []


async def test_a_removed_key_is_gone_and_can_come_back() -> None:
    log = OnePartition()
    log.append(_product("a"))
    log.append(_product("a", 2, removed=True))
    replica = Replica(log, TOPIC, key=_by_code)
    async with _following(replica):
        await replica.wait_caught_up()
        assert replica.get("a") is None
        assert replica.values() == []
        log.append(_product("a", 3))
        assert (await replica.lookup("a")).revision == 3


async def test_a_lookup_sees_what_was_published_a_moment_before() -> None:
    log = OnePartition()
    replica = Replica(log, TOPIC, key=_by_code)
    async with _following(replica):
        await replica.wait_caught_up()
        assert await replica.lookup("new") is None
        for number in range(700):
            log.append(_product(f"p{number}"))
        log.append(_product("new"))
        assert (await replica.lookup("new")).product == "new"


async def test_a_lookup_does_not_guess_while_the_broker_is_away() -> None:
    log = OnePartition()
    log.append(_product("known"))
    replica = Replica(log, TOPIC, key=_by_code)
    with pytest.raises(DependencyDownError):
        await replica.lookup("x")
    async with _following(replica):
        await replica.wait_caught_up()
        log.away = True
        assert (await replica.lookup("known")).product == "known"
        with pytest.raises(DependencyDownError):
            await replica.lookup("unknown")


async def test_offsets_that_no_reader_gets_do_not_hide_the_end() -> None:
    log = OnePartition()
    log.append(_product("a"))
    log.end_beyond = 2
    replica = Replica(log, TOPIC, key=_by_code)
    async with _following(replica), asyncio.timeout(5):
        await replica.wait_caught_up()
        assert await replica.lookup("b") is None


async def test_a_malformed_record_is_counted_and_blocks_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counted: list[tuple[str, dict[str, str]]] = []

    class Counting(NullTelemetry):
        def count(self, name: MetricName, n: float = 1, **labels: str) -> None:
            counted.append((name, labels))

    log = OnePartition()
    log.append(b"{broken")
    log.append(_product("a"))
    replica = Replica(log, TOPIC, key=_by_code, telemetry=Counting())
    async with _following(replica):
        await replica.wait_caught_up()
        assert replica.get("a")
    assert counted == [("control_records_refused", {"topic": TOPIC})]
    refused = next(record for record in caplog.records if record.levelname == "ERROR")
    assert (refused.__dict__["offset"], refused.__dict__["reason"]) == (0, "not_json")


async def test_changes_are_told_in_log_order_removals_included() -> None:
    log = OnePartition()
    told: list[tuple[str, int, bool]] = []

    async def note(event: ProductConfigured) -> None:
        await asyncio.sleep(0)
        told.append((event.product, event.revision, event.removed))

    log.append(_product("a", 1))
    log.append(_product("b", 1))
    log.append(_product("a", 2, removed=True))
    replica = Replica(log, TOPIC, key=_by_code, on_change=note)
    async with _following(replica):
        await replica.wait_caught_up()
    assert told == [("a", 1, False), ("b", 1, False), ("a", 2, True)]


async def test_a_change_that_cannot_be_made_yet_is_tried_again_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.replica._RETRY_S", 0.0)
    log = OnePartition()
    told: list[str] = []

    async def note(event: ProductConfigured) -> None:
        told.append(event.product)
        if told == ["a"]:
            raise TransientError("the store is away")

    log.append(_product("a"))
    log.append(_product("b"))
    replica = Replica(log, TOPIC, key=_by_code, on_change=note)
    async with _following(replica):
        await replica.wait_caught_up()
    assert told == ["a", "a", "b"]


async def test_a_change_that_fails_does_not_hide_later_ones() -> None:
    log = OnePartition()
    told: list[str] = []

    async def note(event: ProductConfigured) -> None:
        if event.product == "bad":
            raise ValueError("a bank that cannot be read")
        told.append(event.product)

    log.append(_product("bad"))
    log.append(_product("good"))
    replica = Replica(log, TOPIC, key=_by_code, on_change=note)
    async with _following(replica):
        await replica.wait_caught_up()
    assert told == ["good"]


async def test_an_outage_is_survived_without_reading_anything_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.replica._RETRY_S", 0.01)
    log = OnePartition()
    log.away = True
    told: list[str] = []

    async def note(event: ProductConfigured) -> None:
        told.append(event.product)

    replica = Replica(log, TOPIC, key=_by_code, on_change=note)
    async with _following(replica):
        await asyncio.sleep(0.03)
        assert "away" in replica.not_ready()[0]
        log.append(_product("a"))
        log.away = False
        await replica.wait_caught_up()
        log.away = True
        await asyncio.sleep(0.03)
        log.append(_product("b"))
        log.away = False
        await until(lambda: replica.get("b") is not None, "the replica goes on")
    assert told == ["a", "b"]
