"""Dead letters written before replays existed can be replayed after the upgrade."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import CursorResult, make_url, text

import adapters.sql
from adapters.sql.dead_letters import SqlDeadLetters
from adapters.sql.engine import migrate, open_database, sqlite_engine
from adapters.sql.inspections import SqlInspections
from adapters.sql.projection import project
from schemas.dead_letters import DeadLetter
from tests.letters_rig import bury, record_of_event
from tests.story import Story

_KEPT = (
    "event_id", "image_id", "stage", "occurred_at", "reason", "error_text", "topic", "partition",
    "offset", "origin_event_id", "origin_at", "payload",
)  # fmt: skip


def _some() -> list[DeadLetter]:
    """A letter of an image and one of a record that is no event."""
    record = record_of_event(Story().uploaded)
    return [bury(record, "anomaly"), bury(record._replace(value=b"{}", offset=2), "record")]


def _first_version(path: Path, letters: Sequence[DeadLetter]) -> None:
    """Make the tables of before, with letters."""
    engine = sqlite_engine(make_url(f"sqlite:///{path}"), begin="BEGIN IMMEDIATE", pool_size=1)
    config = Config()
    config.set_main_option("script_location", str(Path(adapters.sql.__path__[0]) / "migrations"))
    columns = ", ".join(f'"{name}"' for name in _KEPT)
    places = ", ".join(f":{name}" for name in _KEPT)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for letter in letters:
            row = project(letter)[-1].row
            times = {name: row[name].isoformat(" ") for name in ("occurred_at", "origin_at")}
            connection.execute(
                text(f"INSERT INTO dead_letters ({columns}) VALUES ({places})"),
                {name: row[name] for name in _KEPT} | times,
            )
    engine.dispose()


async def test_letters_of_before_the_upgrade_are_found_by_product_and_resolved(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lineside.db"
    _first_version(path, _some())
    url = f"sqlite+aiosqlite:///{path}"
    await migrate(url)
    story = Story()
    async with open_database(url) as database:
        letters = SqlDeadLetters(database)
        letter = bury(record_of_event(story.uploaded), "anomaly")
        told = await letters.get(str(letter.event_id))
        assert told is not None
        assert (told["state"], told["product"]) == ("open", "cap")
        await SqlInspections(database).save([story.scored("OK")])
        told = await letters.get(str(letter.event_id))
        assert told is not None
        assert told["state"] == "resolved"


async def test_however_many_letters_there_are_few_lie_in_memory_and_all_are_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lineside.db"
    record = record_of_event(Story().uploaded)
    _first_version(path, [bury(record._replace(offset=n), "anomaly") for n in range(301)])
    most = 0
    read_all = CursorResult.all

    def counted(result: CursorResult[Any]) -> Any:
        nonlocal most
        rows = read_all(result)
        most = max(most, len(rows))
        return rows

    monkeypatch.setattr(CursorResult, "all", counted)
    await migrate(f"sqlite+aiosqlite:///{path}")
    assert 0 < most < 301
    with sqlite3.connect(path) as database:
        (filled,) = database.execute(
            "SELECT count(*) FROM dead_letters WHERE answer_id IS NOT NULL AND product = 'cap'"
        ).fetchone()
    database.close()
    assert filled == 301
