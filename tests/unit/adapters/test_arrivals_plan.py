"""Looking at the line costs some look-ups, however much somebody imports or waits meanwhile."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Engine, event

from adapters.sql import tables
from adapters.sql.arrivals import SqlArrivals
from adapters.sql.engine import (
    Database,
    PostgresDatabase,
    SqliteDatabase,
    migrate,
    open_database,
    parse_url,
)
from adapters.sql.projection import upload_row
from pipeline.line import MOST_COUNTED
from tests.story import Story
from tests.tables import fresh_postgres

IMPORTED = 2000
LOOK_BACK = timedelta(hours=12)
NOW = datetime.now(UTC)


def images(count: int, prefix: str, **columns: Any) -> list[Mapping[str, Any]]:
    """Accepted images of a camera, one every 10 ms up to a minute ago."""
    row = upload_row(Story().uploaded, state="accepted") | {"source": "cam"} | columns
    newest = NOW - timedelta(minutes=1)
    return [
        row | {"image_id": f"{prefix}{n:031d}", "received_at": newest - timedelta(seconds=n / 100)}
        for n in range(count)
    ]


async def insert(database: Database, rows: Sequence[Mapping[str, Any]]) -> None:
    await database.write(lambda connection: connection.execute(tables.images.insert(), rows))


@contextmanager
def questions(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    """What is asked of a database, with its parameters."""
    asked: list[tuple[str, Any]] = []

    def note(*given: Any) -> None:
        asked.append((str(given[2]), given[3]))

    event.listen(engine, "before_cursor_execute", note)
    yield asked
    event.remove(engine, "before_cursor_execute", note)


def steps_of(path: Path, asked: Sequence[tuple[str, Any]]) -> int:
    """How many steps SQLite's machine takes for these questions."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    with closing(sqlite3.connect(path)) as connection:
        connection.set_progress_handler(step, 1)
        for sql, given in asked:
            connection.execute(sql, given).fetchall()
    return steps


async def sqlite(path: Path) -> SqliteDatabase:
    await migrate(f"sqlite:///{path}")
    return SqliteDatabase(parse_url(f"sqlite:///{path}"))


async def test_a_long_import_of_a_camera_is_passed_over_without_being_read(tmp_path: Path) -> None:
    database = await sqlite(tmp_path / "lineside.db")
    await insert(database, images(IMPORTED, "a", is_quiet=True))
    with questions(database._read_engine) as asked:
        assert await SqlArrivals(database).last(NOW - LOOK_BACK) == {}
    await database.close()
    assert 0 < steps_of(tmp_path / "lineside.db", asked) < IMPORTED / 2


async def test_what_waits_is_found_without_reading_what_does_not_count(tmp_path: Path) -> None:
    database = await sqlite(tmp_path / "lineside.db")
    # These wait for a report alone, for hours if the language model is away.
    await insert(database, images(IMPORTED, "a", verdict="NG", status="pending"))
    await insert(database, images(IMPORTED, "b", is_quiet=True))
    await insert(database, images(3, "c"))
    with questions(database._read_engine) as asked:
        waiting = await SqlArrivals(database).waiting(NOW - LOOK_BACK, NOW)
    await database.close()
    assert waiting is not None
    assert (waiting.images, waiting.has_more) == (3, False)
    assert 0 < steps_of(tmp_path / "lineside.db", asked) < IMPORTED / 2


async def test_a_backlog_is_counted_to_a_bound_and_told_to_be_more(tmp_path: Path) -> None:
    database = await sqlite(tmp_path / "lineside.db")
    arrivals = SqlArrivals(database)
    await insert(database, images(MOST_COUNTED, "a"))
    exact = await arrivals.waiting(NOW - LOOK_BACK, NOW)
    assert exact is not None
    assert (exact.images, exact.has_more) == (MOST_COUNTED, False)
    steps = []
    for prefix, count in (("b", 1), ("c", MOST_COUNTED)):
        await insert(database, images(count, prefix))
        with questions(database._read_engine) as asked:
            more = await arrivals.waiting(NOW - LOOK_BACK, NOW)
        assert more is not None
        assert (more.images, more.has_more) == (MOST_COUNTED, True)
        steps.append(steps_of(tmp_path / "lineside.db", asked))
    await database.close()
    assert steps[1] < steps[0] * 1.2


@pytest.mark.needs_postgres
async def test_postgresql_walks_the_index_of_what_waits(postgres_url: str) -> None:
    url = await fresh_postgres(postgres_url)
    async with open_database(url) as database:
        assert isinstance(database, PostgresDatabase)
        await insert(database, images(IMPORTED, "a", verdict="OK", status="complete"))
        await insert(database, images(3, "b"))
        with questions(database.engine.sync_engine) as asked:
            waiting = await SqlArrivals(database).waiting(NOW - LOOK_BACK, NOW)
    assert waiting is not None
    assert waiting.images == 3
    asked = [(sql, given) for sql, given in asked if "received_at" in sql]
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        await connection.execute("ANALYZE images")
        for sql, given in asked:
            plan = await connection.fetch(f"EXPLAIN {sql}", *given)
            assert "images_waiting" in "\n".join(row[0] for row in plan)
    finally:
        await connection.close()
    assert len(asked) == 2
