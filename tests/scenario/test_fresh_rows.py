"""Rows that go to the relay without a look into the table: never out of order, never twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from unittest.mock import patch

import pytest

from pipeline.ports import OutboxRow
from schemas.message import Position
from tests.story import Story
from tests.tables import Tables, fresh_sqlite, sql_tables


@pytest.fixture
async def url(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> str:
    return await fresh_sqlite(tmp_path_factory.getbasetemp() / "template.db", tmp_path)


@pytest.fixture
async def tables(url: str) -> AsyncIterator[Tables]:
    async with sql_tables(url) as opened:
        yield opened


@pytest.fixture
async def other(url: str) -> AsyncIterator[Tables]:
    """Another process on the same file."""
    async with sql_tables(url) as opened:
        yield opened


async def append(tables: Tables, *parts: str) -> None:
    await tables.outbox.append([Story(part).uploaded for part in parts])


async def publish(tables: Tables) -> list[str]:
    """Do what the relay does until nothing waits; returns parts as they were published."""
    published = []
    while rows := await tables.outbox.pending(100):
        published += parts(rows)
        await mark(tables, rows)
    return published


async def mark(tables: Tables, rows: Sequence[OutboxRow]) -> None:
    await tables.outbox.mark_published(
        {row.row_id: Position(row.message.topic, 0, n) for n, row in enumerate(rows)}
    )


def parts(rows: Sequence[OutboxRow]) -> list[str]:
    names = ("A", "B", "C", "D")
    return [
        n
        for row in rows
        for n in names
        if f'"part_id":"{n}"'.encode() in (row.message.value or b"")
    ]


async def test_the_relay_gets_a_lone_append_without_a_query(tables: Tables) -> None:
    async with tables.outbox.lease():
        await append(tables, "A", "B")
        assert tables.database is not None
        with patch.object(tables.database, "read", side_effect=AssertionError):
            rows = await tables.outbox.pending(100)
        assert parts(rows) == ["A", "B"]
        assert await tables.outbox.pending(100) == rows  # not marked: the table has them still
        await mark(tables, rows)
        assert await publish(tables) == []


async def test_rows_handed_over_are_those_of_the_table(tables: Tables) -> None:
    await append(tables, "A")
    (asked,) = await tables.outbox.pending(100)
    await mark(tables, [asked])
    async with tables.outbox.lease():
        await append(tables, "B")
        handed = await tables.outbox.pending(100)
        assert await tables.outbox.pending(100) == handed
        assert handed[0].row_id > asked.row_id


async def test_nothing_overtakes_what_another_process_appended(
    tables: Tables, other: Tables
) -> None:
    async with tables.outbox.lease():
        await append(other, "A")
        await append(tables, "B")
        assert await publish(tables) == ["A", "B"]
        await append(tables, "C")
        await append(other, "D")
        assert await publish(tables) == ["C", "D"]


async def test_nothing_overtakes_what_could_not_be_published(tables: Tables) -> None:
    async with tables.outbox.lease():
        await append(tables, "A")
        assert parts(await tables.outbox.pending(100)) == ["A"]  # and Kafka is away
        await append(tables, "B")
        assert await publish(tables) == ["A", "B"]


async def test_nothing_overtakes_what_was_put_back(tables: Tables) -> None:
    await append(tables, "A")
    (row,) = await tables.outbox.pending(100)
    await tables.outbox.set_aside(row.row_id, "message_too_large: 1 MB")
    async with tables.outbox.lease():
        await append(tables, "B")
        assert await publish(tables) == ["B"]
        await tables.outbox.put_back([row.row_id])
        await append(tables, "C")
        assert await publish(tables) == ["A", "C"]


async def test_what_the_next_relay_published_is_not_published_again(
    tables: Tables, other: Tables
) -> None:
    async with tables.outbox.lease():
        await append(tables, "A")
    async with other.outbox.lease():
        assert await publish(other) == ["A"]
    async with tables.outbox.lease():
        assert await publish(tables) == []
        await append(tables, "B")
        await publish(other)
        await append(tables, "C")
        # B was this process's own and is in other hands: at least once, and in order.
        assert await publish(tables) == ["C"]


async def test_large_appends_are_left_to_the_table(tables: Tables) -> None:
    async with tables.outbox.lease():
        await append(tables, "A", "B", "C")
        assert parts(await tables.outbox.pending(2)) == ["A", "B"]
        await append(tables, "D")
        assert parts(await tables.outbox.pending(100, 1)) == ["A"]


async def test_two_appends_before_the_relay_looks_are_both_published(tables: Tables) -> None:
    async with tables.outbox.lease():
        await append(tables, "A")
        await append(tables, "B")
        assert await publish(tables) == ["A", "B"]


async def test_an_event_that_is_known_is_not_published_again(tables: Tables) -> None:
    async with tables.outbox.lease():
        await append(tables, "A")
        await publish(tables)
        await append(tables, "A")
        assert await publish(tables) == []
        await append(tables, "A", "B")
        assert await publish(tables) == ["B"]
