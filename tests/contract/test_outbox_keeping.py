"""OutboxKeeping and Unanswered: memory, SQLite and PostgreSQL keep the same promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.housekeeping import OutboxBacklog
from pipeline.reconciling import Waiting
from schemas.event import Event
from schemas.message import Position
from tests.story import Story, at
from tests.tables import Tables, fresh_postgres, fresh_sqlite, memory_tables, sql_tables

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(
    params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.needs_postgres)]
)
async def tables(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> AsyncIterator[Tables]:
    if request.param == "memory":
        yield memory_tables()
        return
    if request.param == "sqlite":
        template = tmp_path_factory.getbasetemp() / "template.db"
        url = await fresh_sqlite(template, tmp_path)
    else:
        url = await fresh_postgres(request.getfixturevalue("postgres_url"))
    async with sql_tables(url) as opened:
        yield opened


async def publish(tables: Tables, count: int = 100) -> None:
    rows = await tables.outbox.pending(count)
    await tables.outbox.mark_published(
        {row.row_id: Position(row.message.topic, 0, n) for n, row in enumerate(rows)}
    )


async def owed(tables: Tables, limit: int = 100, cursor: str | None = None) -> list[Waiting]:
    debts, _ = await tables.unanswered.waiting(at(1e6), cursor=cursor, limit=limit)
    return list(debts)


async def test_a_batch_for_the_relay_is_bounded_in_rows_and_in_bytes(tables: Tables) -> None:
    stories = [Story(f"P-{n}") for n in range(6)]
    await tables.outbox.append([story.uploaded for story in stories])
    rows = await tables.outbox.pending(100)
    sizes = [len(row.message.value) for row in rows]
    assert [r.row_id for r in await tables.outbox.pending(4)] == [r.row_id for r in rows[:4]]
    for bound, count in ((sum(sizes[:3]), 3), (sum(sizes[:3]) - 1, 2), (1, 1)):
        assert await tables.outbox.pending(100, bound) == rows[:count]


async def test_the_backlog_is_counted_with_its_oldest_row(tables: Tables) -> None:
    assert await tables.outbox.backlog() == OutboxBacklog(0, None)
    began = datetime.now(UTC)
    await tables.outbox.append([Story(f"P-{n}").uploaded for n in range(3)])
    rows, oldest_at, refused = await tables.outbox.backlog()
    assert (rows, refused) == (3, 0)
    assert oldest_at is not None
    assert began <= oldest_at <= datetime.now(UTC)
    await publish(tables, 2)
    assert (await tables.outbox.backlog()).rows == 1


async def test_a_row_that_is_set_aside_waits_no_more_is_told_and_stays(tables: Tables) -> None:
    stories = [Story(f"P-{n}") for n in range(3)]
    await tables.outbox.append([story.uploaded for story in stories])
    first, *others = await tables.outbox.pending(100)
    await tables.outbox.set_aside(first.row_id, "message_too_large: 1 MB")
    assert await tables.outbox.pending(100) == others
    rows, oldest_at, refused = await tables.outbox.backlog()
    assert (rows, refused, oldest_at is not None) == (2, 1, True)
    await publish(tables)
    # Nobody publishes it again: nothing that it asks for is owed.
    assert stories[0].uploaded not in [debt.event for debt in await owed(tables)]
    later = datetime.now(UTC) + timedelta(hours=1)
    assert [await tables.outbox.prune(later, 1) for _ in range(3)] == [1, 1, 0]
    assert await tables.outbox.backlog() == OutboxBacklog(0, None, 1)


async def test_what_was_set_aside_is_listed_and_can_be_tried_again(tables: Tables) -> None:
    stories = [Story(f"P-{n}") for n in range(3)]
    await tables.outbox.append([story.uploaded for story in stories])
    first, second, third = await tables.outbox.pending(100)
    for row in (second, first):
        await tables.outbox.set_aside(row.row_id, "message_too_large: 1 MB")
    listed = await tables.outbox.refused_rows(100)
    assert [one.row_id for one in listed] == [first.row_id, second.row_id]
    assert await tables.outbox.refused_rows(1) == listed[:1]
    one = listed[0]
    assert (one.topic, one.reason) == ("images.uploaded", "message_too_large: 1 MB")
    assert one.event_id == str(stories[0].uploaded.event_id)
    assert one.size_bytes == len(first.message.value or b"")
    assert one.key == (first.message.key or b"").decode()
    # Only what was set aside is put back, under its old id and place.
    assert await tables.outbox.put_back([first.row_id, third.row_id, 999]) == 1
    assert await tables.outbox.pending(100) == [first, third]
    assert [row.row_id for row in await tables.outbox.refused_rows(100)] == [second.row_id]
    assert await tables.outbox.put_back([]) == 0


async def test_published_rows_go_when_their_time_is_over_and_waiting_ones_never(
    tables: Tables,
) -> None:
    stories = [Story(f"P-{n}") for n in range(5)]
    await tables.outbox.append([story.uploaded for story in stories])
    await publish(tables, 3)
    assert await tables.outbox.prune(LONG_AGO, 100) == 0
    later = datetime.now(UTC) + timedelta(hours=1)
    assert await tables.outbox.prune(later, 2) == 2
    assert await tables.outbox.prune(later, 100) == 1
    assert await tables.outbox.prune(later, 100) == 0
    assert len(await tables.outbox.pending(100)) == 2
    # The image itself is still known, so that its upload sent again is a duplicate.
    assert await tables.outbox.reserve(stories[0].uploaded) == "accepted"


async def test_an_image_owes_from_upload_to_report_one_answer_after_the_other(
    tables: Tables,
) -> None:
    story = Story()
    await tables.outbox.append([story.uploaded])
    assert await owed(tables) == []  # the relay has not sent it yet
    await publish(tables)
    scored = story.scored("NG")
    steps: list[tuple[Event, list[Waiting]]] = [
        (story.embedded(), [Waiting("anomaly", story.uploaded)]),
        (scored, [Waiting("llm", scored)]),
        (story.explained(scored), []),
    ]
    uploaded = story.uploaded
    assert await owed(tables) == [Waiting("embed", uploaded), Waiting("anomaly", uploaded)]
    for answer, left in steps:
        await tables.inspections.save([answer])
        assert await owed(tables) == left


async def test_a_request_is_owed_until_it_is_answered_and_replaces_older_debts(
    tables: Tables,
) -> None:
    story = Story()
    request = story.requested(10, explain=True)
    await tables.outbox.append([story.uploaded])
    await tables.inspections.save([story.embedded(), story.skipped("anomaly")])
    await tables.outbox.append([request])
    assert await owed(tables) == []
    await publish(tables)
    (debt,) = await owed(tables)
    assert debt == Waiting("anomaly", request)
    scored = story.scored("OK", request)
    await tables.inspections.save([scored])
    assert await owed(tables) == [Waiting("llm", scored)]


async def test_an_upload_that_only_its_results_tell_of_is_owed_by_record(tables: Tables) -> None:
    story, other = Story("told"), Story("own-id", received_s=1)
    own = other.uploaded.model_copy(update={"event_id": other.requested(0).event_id})
    await tables.inspections.save([story.scored("OK"), other.embedded(own)])
    assert [(w.stage, w.event.event_id) for w in await owed(tables)] == [
        ("record", story.uploaded.event_id),
        ("record", own.event_id),
    ]
    # Whether this one's origin was an upload or a request nobody can tell.
    third = Story("unknown", received_s=2)
    await tables.inspections.save([third.scored("OK", third.requested(3))])
    assert len(await owed(tables)) == 2


async def test_debts_are_walked_page_by_page_oldest_first_and_young_ones_left_out(
    tables: Tables,
) -> None:
    stories = [Story(f"P-{n}", received_s=n) for n in range(5)]
    await tables.outbox.append([story.uploaded for story in stories])
    await publish(tables)
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        debts, cursor = await tables.unanswered.waiting(at(4), cursor=cursor, limit=2)
        seen += [w.event.subject.image_id for w in debts if w.stage == "embed"]
    assert seen == [story.image_id for story in stories[:4]]
    assert cursor is None


async def test_there_is_one_reconciler_and_it_can_ask_whether_it_still_is(tables: Tables) -> None:
    async with tables.unanswered.reconcile_lease() as lease, tables.outbox.lease():
        await lease.check()

        async def second() -> None:
            async with tables.unanswered.reconcile_lease():
                pass

        waiting = asyncio.create_task(second())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.1)
    await asyncio.wait_for(waiting, 10)
