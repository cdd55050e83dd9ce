"""Writers in several processes and on several connections, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy import Table, func, select

from adapters.sql.outbox import SqlOutbox
from adapters.sql.tables import deployment_logs, inspections, model_parameters, response_history
from pipeline.ports import ImageFilter
from schemas.event import Event
from tests.story import Story, configured
from tests.tables import Tables, fresh_postgres, fresh_sqlite, sql_tables


def life(story: Story) -> list[Event]:
    """Everything that settles an image."""
    scored = story.scored("NG")
    return [story.uploaded, story.embedded(), scored, story.explained(scored)]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs_postgres)])
async def url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> str:
    if request.param == "sqlite":
        return await fresh_sqlite(tmp_path_factory.getbasetemp() / "template.db", tmp_path)
    return await fresh_postgres(request.getfixturevalue("postgres_url"))


async def test_writers_of_one_image_never_leave_a_stale_status(url: str) -> None:
    stories = [Story(f"P-{n}", received_s=n) for n in range(60)]
    async with AsyncExitStack() as stack:
        writers = [await stack.enter_async_context(sql_tables(url)) for _ in range(4)]
        first = writers[0]
        for story in stories:
            # Each event from a connection of its own, all at once, and one of them twice.
            events = [*life(story), story.embedded()]
            saves = [
                w.inspections.save([e]) for w, e in zip([*writers, first], events, strict=True)
            ]
            await asyncio.gather(*saves)
            view = await first.inspections.get(story.image_id)
            assert (view["status"], view["verdict"]) == ("complete", "NG")
            ((item,), _) = await first.inspections.list(ImageFilter(), cursor=None, limit=1)
            assert (item["image_id"], item["status"]) == (story.image_id, "complete")
        assert await number_of_rows(first, inspections) == 3 * len(stories)
        assert await number_of_rows(first, response_history) == len(stories)


async def test_batches_that_share_images_are_written_together_without_a_deadlock(url: str) -> None:
    events = [event for n in range(60) for event in life(Story(f"P-{n}", received_s=n))]
    order = random.Random(2)

    async def write(tables: Tables) -> int:
        mine = order.sample(events, len(events))
        saved = [await tables.inspections.save(mine[n : n + 40]) for n in range(0, len(mine), 40)]
        return sum(new for part in saved for new in part)

    async with sql_tables(url) as one, sql_tables(url) as two, sql_tables(url) as three:
        await asyncio.gather(write(one), write(two), write(three))
        told = await one.inspections.stats(product=None, since=None, bucket=None)
        assert (told["all"]["total"], told["all"]["NG"]) == (60, 60)
        assert await number_of_rows(one, inspections) == 180


async def number_of_rows(tables: Tables, table: Table) -> int:
    """Count a table."""
    assert tables.database is not None
    counted = select(func.count()).select_from(table)
    return await tables.database.read(lambda connection: connection.scalar(counted)) or 0


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
        kept = await number_of_rows(tables, model_parameters)
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
