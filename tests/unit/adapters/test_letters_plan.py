"""To keep a dead letter costs some look-ups, however many cases and manuals there are."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import event

from adapters.sql.engine import SqliteDatabase, migrate, parse_url
from adapters.sql.inspections import SqlInspections
from tests.letters_rig import bury, record_of_event
from tests.story import Story


async def test_no_table_is_read_through_to_keep_a_letter(tmp_path: Path) -> None:
    path = tmp_path / "lineside.db"
    await migrate(f"sqlite:///{path}")
    database = SqliteDatabase(parse_url(f"sqlite:///{path}"))
    asked: list[tuple[str, Any]] = []

    def note(*given: Any) -> None:
        asked.append((given[2], given[3]))

    event.listen(database._write_engine, "before_cursor_execute", note)
    letter = bury(record_of_event(Story().uploaded), "anomaly")
    assert await SqlInspections(database, timezone="UTC").save([letter]) == [True]
    await database.close()
    with closing(sqlite3.connect(path)) as connection:
        steps = [
            row[-1]
            for sql, given in asked
            if sql.startswith("SELECT")
            for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", given)
        ]
    assert len(steps) > 7
    assert [step for step in steps if step.startswith("SCAN")] == []
