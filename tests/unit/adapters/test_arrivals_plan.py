"""Looking at cameras costs some look-ups, however many images somebody imports meanwhile."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import event

from adapters.sql.arrivals import SqlArrivals
from adapters.sql.engine import SqliteDatabase, migrate, parse_url
from adapters.sql.projection import upload_row
from adapters.sql.statements import statement
from tests.story import Story

IMPORTED = 2000


async def test_a_long_import_of_a_camera_is_passed_over_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "lineside.db"
    await migrate(f"sqlite:///{path}")
    database = SqliteDatabase(parse_url(f"sqlite:///{path}"))
    row = upload_row(Story().uploaded, state="accepted") | {"source": "cam", "is_quiet": True}
    now = datetime.now(UTC)
    rows = [
        row | {"image_id": f"{n:032d}", "received_at": now - timedelta(seconds=n)}
        for n in range(IMPORTED)
    ]
    first = statement("sqlite", "image")
    await database.write(lambda connection: connection.execute(first, rows))
    asked: list[tuple[str, object]] = []

    def note(*given: object) -> None:
        asked.append((str(given[2]), given[3]))

    event.listen(database._read_engine, "before_cursor_execute", note)
    assert await SqlArrivals(database).last(now - timedelta(hours=12)) == {}
    await database.close()
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    with closing(sqlite3.connect(path)) as connection:
        connection.set_progress_handler(step, 1)
        for sql, given in asked:
            connection.execute(sql, given).fetchall()  # type: ignore[arg-type]  # as the driver got it
    assert 0 < steps < IMPORTED / 2
