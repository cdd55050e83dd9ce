"""Writers in several processes and on several connections, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import func, select

from adapters.sql.outbox import SqlOutbox
from adapters.sql.tables import deployment_logs, inspections, model_parameters, response_history
from schemas.event import Event
from tests.story import Story, configured
from tests.tables import fresh_postgres, fresh_sqlite, sql_tables


def lives(count: int) -> tuple[list[Story], list[list[Event]]]:
    """Images, and their events dealt to three writers in no order."""
    stories = [Story(f"P-{n}", received_s=n) for n in range(count)]
    events: list[Event] = []
    for story in stories:
        scored = story.scored("NG")
        events += [story.uploaded, story.embedded(), scored, story.explained(scored)]
    dealt = events + random.Random(1).sample(events, count)
    random.Random(2).shuffle(dealt)
    return stories, [dealt[n::3] for n in range(3)]


async def write_together(url: str, parts: Sequence[Sequence[Event]]) -> list[bool]:
    """Write from as many connections as there are parts, at the same time."""

    async def write(part: Sequence[Event]) -> list[bool]:
        async with sql_tables(url) as tables:
            is_new: list[bool] = []
            for start in range(0, len(part), 7):
                is_new += await tables.inspections.save(part[start : start + 7])
            return is_new

    return [new for part in await asyncio.gather(*map(write, parts)) for new in part]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs_postgres)])
async def url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> str:
    if request.param == "sqlite":
        return await fresh_sqlite(tmp_path_factory.getbasetemp() / "template.db", tmp_path)
    return await fresh_postgres(request.getfixturevalue("postgres_url"))


async def test_writers_of_one_image_never_leave_a_stale_status(url: str) -> None:
    stories, parts = lives(60)
    await write_together(url, parts)
    async with sql_tables(url) as tables:
        for story in stories:
            view = await tables.inspections.get(story.image_id)
            assert (view["status"], view["verdict"]) == ("complete", "NG")
        told = await tables.inspections.stats(product=None, since=None, bucket=None)
        assert (told["all"]["total"], told["all"]["NG"]) == (60, 60)
        assert tables.database is not None
        counts = [
            await tables.database.read(
                lambda connection, t=table: connection.scalar(select(func.count()).select_from(t))
            )
            for table in (inspections, response_history)
        ]
        assert counts == [180, 60]


async def test_uploads_from_many_requests_at_once_are_all_kept(url: str) -> None:
    stories = [Story(f"P-{n}") for n in range(40)]
    async with sql_tables(url) as first, sql_tables(url) as second:
        results = await asyncio.gather(
            *(
                outbox.append([story.uploaded])
                for story in stories
                for outbox in (first.outbox, second.outbox)
            )
        )
        assert sum(new for (new,) in results) == len(stories)
        assert len(await first.outbox.pending(1000)) == len(stories)


async def test_a_bank_is_logged_when_it_begins_to_judge_and_every_revision_is_kept(
    url: str,
) -> None:
    revisions = [
        configured(1),
        configured(2, active_bank="v1"),
        configured(3, active_bank="v1", threshold=2.0),
        configured(4, active_bank="v2"),
        configured(5, active_bank="v1"),
    ]
    async with sql_tables(url) as tables:
        for event in revisions:
            await tables.outbox.append([event])
        await tables.inspections.save(revisions)
        assert tables.database is not None
        logged = await tables.database.read(
            lambda connection: connection.execute(
                select(deployment_logs.c.bank_version, deployment_logs.c.revision).order_by(
                    deployment_logs.c.revision
                )
            ).all()
        )
        kept = await tables.database.read(
            lambda connection: connection.scalar(select(func.count()).select_from(model_parameters))
        )
    assert [tuple(row) for row in logged] == [("v1", 2), ("v2", 4), ("v1", 5)]
    assert kept == 5


async def test_a_lease_is_free_again_when_its_holder_is_gone(url: str) -> None:
    async with sql_tables(url) as first, sql_tables(url) as second:
        async with first.outbox.lease(), second.outbox.sweep_lease():
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(_hold(second.outbox), 0.1)
        await asyncio.wait_for(_hold(second.outbox), 10)


async def _hold(outbox: SqlOutbox) -> None:
    async with outbox.lease():
        return
