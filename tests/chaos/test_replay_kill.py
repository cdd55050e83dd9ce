"""SIGKILL while dead letters are put back, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from adapters.sql.replays import SqlReplays
from schemas.anomalies import ImageScored
from schemas.codec import decode
from schemas.message import Record
from schemas.replays import REPLAY_OF
from tests.letters_rig import bury, order, record_of_event
from tests.story import Story, at
from tests.tables import Tables, fresh_postgres, fresh_sqlite, sql_tables

VICTIM = Path(__file__).with_name("replay_victim.py")
ROOT = Path(__file__).parents[2]
LETTERS = 6
# A step puts back two letters: slow enough for several, fast enough for a test.
RATE_PER_S = 10.0
STEPS = [
    ("put_back", "before", 1),
    ("put_back", "after", 2),
    ("publish", "before", 1),
    ("publish", "after", 1),
    ("mark_published", "before", 2),
    ("mark_published", "after", 2),
]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs_postgres)])
async def url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> str:
    if request.param == "sqlite":
        return await fresh_sqlite(tmp_path_factory.getbasetemp() / "template.db", tmp_path)
    return await fresh_postgres(request.getfixturevalue("postgres_url"))


async def live(url: str, log: Path, *death: Any) -> asyncio.subprocess.Process:
    """Run the relay and the runner in a process of their own."""
    return await asyncio.create_subprocess_exec(
        sys.executable, str(VICTIM), url, str(log), *(str(part) for part in death),
        cwd=ROOT, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


async def prepare(tables: Tables) -> dict[str, Story]:
    """Bury some images, and ask for all of them back; returns them by letter."""
    stories = [Story(f"P-{number}") for number in range(LETTERS)]
    letters = [
        bury(record_of_event(story.uploaded, offset=n), "anomaly", when=at(n))
        for n, story in enumerate(stories)
    ]
    await tables.inspections.save([*(story.uploaded for story in stories), *letters])
    return {str(letter.event_id): story for letter, story in zip(letters, stories, strict=True)}


def published(log: Path) -> list[Record]:
    """What lies in the log."""
    if not log.exists():
        return []
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [
        Record(
            line["topic"], 0, number, b"S1", b64decode(line["value"]),
            tuple((name, b64decode(value)) for name, value in line["headers"]),
        )
        for number, line in enumerate(lines)
    ]  # fmt: skip


async def finish(tables: Tables, replays: SqlReplays, replay_id: str) -> None:
    """Wait until the next process has put back and published all."""
    async with asyncio.timeout(60):
        while True:
            told = await replays.get(replay_id)
            assert told is not None
            if told["state"] == "done" and not await tables.outbox.pending(1):
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(("method", "when", "nth"), STEPS)
async def test_a_replay_killed_midway_and_run_again_puts_each_letter_back_once(
    url: str, tmp_path: Path, method: str, when: str, nth: int
) -> None:
    log = tmp_path / "log"
    async with sql_tables(url) as tables:
        assert tables.database is not None
        replays = SqlReplays(tables.database, lambda: None)
        stories = await prepare(tables)
        asked = order(rate_per_s=RATE_PER_S)
        await replays.begin(asked, dry_run=False)
        victim = await live(url, log, method, when, nth)
        async with asyncio.timeout(60):
            assert await victim.wait() == -signal.SIGKILL
        # Whoever asks again meanwhile takes nothing twice.
        assert (await replays.begin(order(), dry_run=False))["letters"] == 0
        successor = await live(url, log, "nothing", "never", 0)
        try:
            await finish(tables, replays, asked.replay_id)
        finally:
            successor.kill()
            await successor.wait()
        assert await _count(tables, "outbox") == LETTERS
        records = published(log)
        assert {record.header(REPLAY_OF) for record in records} == stories.keys()
        # A death between publishing and marking repeats that one batch, never more.
        assert len(records) <= LETTERS + (0 if method == "put_back" and when == "before" else 2)
        # What the stage makes of every copy: one answer a letter.
        await tables.inspections.save([_answer(stories, record) for record in records])
        told = await replays.get(asked.replay_id)
        assert told is not None
        assert (told["put_back"], told["resolved"], told["waiting"]) == (LETTERS, LETTERS, 0)
        assert await _count(tables, "inspections") == LETTERS


async def _count(tables: Tables, name: str) -> int:
    assert tables.database is not None
    counted = text(f"SELECT count(*) FROM {name}")
    return int(await tables.database.read(lambda connection: connection.scalar(counted)) or 0)


def _answer(stories: dict[str, Story], record: Record) -> ImageScored:
    story = stories[record.header(REPLAY_OF) or ""]
    assert decode(record) == story.uploaded
    return story.scored("OK")
