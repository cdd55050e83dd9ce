"""Outbox, Inspections and Catalog: memory, SQLite and PostgreSQL keep the same promises."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConflictError
from pipeline.ports import ImageFilter
from schemas.codec import decode
from schemas.event import Event
from schemas.message import Position, Record
from tests.story import Story, at, configured, ids, manual, registered
from tests.tables import Tables, fresh_postgres, fresh_sqlite, memory_tables, sql_tables


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


async def test_an_appended_upload_is_readable_and_waits_for_the_relay(tables: Tables) -> None:
    story = Story()
    assert await tables.outbox.append([story.uploaded]) == [True]
    view = await tables.inspections.get(story.image_id)
    assert view["status"] == "pending"
    assert view["subject"]["part_id"] == "P-1"
    (row,) = await tables.outbox.pending(10)
    record = Record(
        row.message.topic, 0, 0, row.message.key, row.message.value, row.message.headers
    )
    assert decode(record) == story.uploaded
    assert record.header("ce_id") == str(story.uploaded.event_id)
    assert tables.wakes == [0, 1]


async def test_appending_the_same_event_again_changes_nothing(tables: Tables) -> None:
    story = Story()
    other = story.uploaded.model_copy(update={"label": "second"})
    assert await tables.outbox.append([story.uploaded, other]) == [True, False]
    assert await tables.outbox.append([other]) == [False]
    assert len(await tables.outbox.pending(10)) == 1
    assert tables.wakes == [0, 1]


async def test_a_reserved_upload_is_unseen_until_it_is_appended(tables: Tables) -> None:
    story = Story()
    assert await tables.outbox.reserve(story.uploaded) == "new"
    assert await tables.outbox.reserve(story.uploaded) == "storing"
    assert await tables.inspections.get(story.image_id) is None
    assert (await tables.inspections.list(ImageFilter(), cursor=None, limit=10))[0] == []
    assert await tables.outbox.append([story.uploaded]) == [True]
    assert await tables.outbox.reserve(story.uploaded) == "accepted"
    assert (await tables.inspections.get(story.image_id))["status"] == "pending"


async def test_unfinished_uploads_are_found_by_age_and_can_be_forgotten(tables: Tables) -> None:
    old, young, done = Story("old"), Story("young", received_s=100), Story("done")
    for story in (old, young, done):
        await tables.outbox.reserve(story.uploaded)
    await tables.outbox.append([done.uploaded])
    assert await tables.outbox.unfinished(at(50), 10) == [old.uploaded]
    for story in (old, done):
        await tables.outbox.forget(story.image_id)
    assert await tables.outbox.unfinished(at(50), 10) == []
    assert await tables.inspections.get(done.image_id) is not None
    assert await tables.outbox.reserve(old.uploaded) == "new"


async def test_published_rows_are_not_pending_whatever_their_order(tables: Tables) -> None:
    stories = [Story(f"P-{n}") for n in range(4)]
    await tables.outbox.append([story.uploaded for story in stories])
    rows = await tables.outbox.pending(10)
    done = {row.row_id: Position("images.uploaded", 0, n) for n, row in enumerate(rows[1:3])}
    await tables.outbox.mark_published(done)
    await tables.outbox.mark_published({})
    left = await tables.outbox.pending(10)
    assert [row.row_id for row in left] == [rows[0].row_id, rows[3].row_id]
    assert len(await tables.outbox.pending(1)) == 1


async def test_only_one_relay_holds_the_lease(tables: Tables) -> None:
    order: list[str] = []

    async def second() -> None:
        async with tables.outbox.lease():
            order.append("second")

    async with tables.outbox.lease(), tables.outbox.sweep_lease():
        waiting = asyncio.create_task(second())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.05)
        order.append("first")
    await asyncio.wait_for(waiting, 10)
    assert order == ["first", "second"]


async def test_a_product_revision_that_is_not_the_next_one_is_a_conflict(tables: Tables) -> None:
    story = Story()
    assert await tables.outbox.append([configured(1)]) == [True]
    for wrong in (configured(1), configured(3)):
        with pytest.raises(ConflictError):
            await tables.outbox.append([story.uploaded, wrong])
    assert await tables.inspections.get(story.image_id) is None
    assert len(await tables.outbox.pending(10)) == 1
    second = configured(2, active_bank="v1")
    assert await tables.outbox.append([second]) == [True]
    assert await tables.outbox.append([second]) == [False]
    assert (await tables.catalog.product("cap"))["active_bank"] == "v1"


async def test_of_two_editors_at_once_only_one_wins(tables: Tables) -> None:
    await tables.outbox.append([configured(1)])
    results = await asyncio.gather(
        *(tables.outbox.append([configured(2, display_name=str(n))]) for n in range(5)),
        return_exceptions=True,
    )
    assert results.count([True]) == 1
    assert sum(isinstance(result, ConflictError) for result in results) == 4


def _life() -> tuple[Story, list[Event]]:
    story = Story(lot_id="L1")
    request = story.requested(10, explain=True)
    old, new = story.scored("OK"), story.scored("NG", request)
    events: list[Event] = [
        story.uploaded, story.embedded(), old, story.skipped("llm", old), request, new,
        story.explained(new), story.buried("record"), story.reviewed(20, "ng", reason="seen"),
        story.reviewed(21, acknowledges=new.event_id),
    ]  # fmt: skip
    return story, events


@pytest.mark.parametrize("seed", range(4))
async def test_results_in_any_order_and_twice_end_in_the_same_image(
    tables: Tables, seed: int
) -> None:
    story, events = _life()
    shuffled = events * 2
    random.Random(seed).shuffle(shuffled)
    is_new: list[bool] = []
    for start in range(0, len(shuffled), 3):
        is_new += await tables.inspections.save(shuffled[start : start + 3])
    assert sum(is_new) == len(events)
    view = await tables.inspections.get(story.image_id)
    assert (view["status"], view["verdict"]) == ("complete", "NG")
    assert view["scored"]["event_id"] == str(events[5].event_id)
    assert view["embedded"]["event_id"] == str(events[1].event_id)
    assert view["explained"]["event_id"] == str(events[6].event_id)
    assert ids(item["event"] for item in view["superseded"]) == ids([events[2], events[3]])
    assert {item["type"] for item in view["superseded"]} == {"ImageScored", "ImageSkipped"}
    assert ids(view["requests"]) == ids([events[4]])
    assert ids(view["dead_letters"]) == ids([events[7]])
    assert ids(view["reviews"]) == ids([events[8]])
    assert view["decision"]["reason"] == "seen"
    assert view["acknowledged"]["by"] == "kim"
    ((item,), _) = await tables.inspections.list(ImageFilter(), cursor=None, limit=5)
    assert item["scored"] == view["scored"]
    assert (item["status"], item["verdict"], item["decision"]) == ("complete", "NG", "ng")
    assert item["acknowledged"] == view["acknowledged"]


async def test_the_first_event_of_an_id_wins(tables: Tables) -> None:
    story = Story()
    first = story.scored("OK")
    second = first.model_copy(update={"verdict": "NG"})
    assert await tables.inspections.save([story.uploaded, first]) == [True, True]
    assert await tables.inspections.save([second, story.uploaded]) == [False, False]
    assert (await tables.inspections.get(story.image_id))["verdict"] == "OK"


async def test_a_request_by_the_web_makes_a_complete_image_pending(tables: Tables) -> None:
    story = Story()
    await tables.outbox.append([story.uploaded])
    await tables.inspections.save([story.embedded(), story.skipped("anomaly")])
    wanted = ImageFilter(status="complete", verdict="NOT_JUDGED")
    assert len((await tables.inspections.list(wanted, cursor=None, limit=5))[0]) == 1
    request = story.requested(10)
    await tables.outbox.append([request])
    assert (await tables.inspections.get(story.image_id))["status"] == "pending"
    assert (await tables.inspections.list(wanted, cursor=None, limit=5))[0] == []
    await tables.inspections.save([request, story.scored("REVIEW", request)])
    assert (await tables.inspections.get(story.image_id))["verdict"] == "REVIEW"


async def test_the_current_result_of_a_stage_is_the_one_of_the_newest_origin(
    tables: Tables,
) -> None:
    story = Story()
    request = story.requested(10)
    new, old = story.scored("NG", request), story.scored("OK")
    await tables.inspections.save([new, request, story.uploaded, old, story.embedded()])
    assert await tables.inspections.current(story.image_id, "anomaly") == new
    assert await tables.inspections.current(story.image_id, "embed") == story.embedded()
    assert await tables.inspections.current(story.image_id, "llm") is None
    assert await tables.inspections.current("0" * 32, "embed") is None


async def test_a_result_of_an_unknown_upload_makes_the_image_readable(tables: Tables) -> None:
    story = Story()
    await tables.inspections.save([story.scored("NG")])
    view = await tables.inspections.get(story.image_id)
    assert (view["status"], view["verdict"]) == ("pending", "NG")
    await tables.inspections.save([story.uploaded])
    assert (await tables.inspections.get(story.image_id))["waiting_for"] == ["embed", "llm"]


async def _all_pages(tables: Tables, wanted: ImageFilter, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page, cursor = await tables.inspections.list(wanted, cursor=cursor, limit=limit)
        found += page
        if cursor is None:
            return found
        assert len(page) == limit


async def test_pages_show_every_image_once_newest_first_also_at_equal_times(
    tables: Tables,
) -> None:
    stories = [Story(f"P-{n}", received_s=n // 3) for n in range(10)]
    await tables.outbox.append([story.uploaded for story in stories])
    found = await _all_pages(tables, ImageFilter(), 3)
    expected = sorted(stories, key=lambda s: (s.subject.received_at, s.image_id), reverse=True)
    assert [item["image_id"] for item in found] == [story.image_id for story in expected]


async def test_filters_narrow_the_list(tables: Tables) -> None:
    plain = Story("a", source="cam1", lot_id="L1")
    other = Story("b", source="cam2", lot_id="L2", product="bolt", received_s=100)
    quiet = Story("c", lot_id="L3", purpose="golden", received_s=200)
    for story in (plain, other, quiet):
        await tables.inspections.save([story.uploaded, story.scored("NG")])
    await tables.inspections.save([other.reviewed(5, "ng")])

    async def found(**fields: Any) -> list[str]:
        items, _ = await tables.inspections.list(ImageFilter(**fields), cursor=None, limit=9)
        return [item["image_id"] for item in items]

    assert await found(product="bolt") == [other.image_id]
    assert await found(source="cam1") == [plain.image_id]
    assert await found(lot_id="L2") == [other.image_id]
    assert await found(since=at(100)) == [quiet.image_id, other.image_id]
    assert await found(until=at(100)) == [plain.image_id]
    assert await found(verdict="OK") == []
    assert await found(unacknowledged=True) == [plain.image_id]


async def test_counts_tell_verdicts_lots_times_and_open_alarms(tables: Tables) -> None:
    ng, ok, waiting = (
        Story("a", lot_id="L1"),
        Story("b", lot_id="L1"),
        Story("c", received_s=90_000),
    )
    elsewhere = Story("d", product="bolt")
    await tables.inspections.save([ng.uploaded, ng.scored("NG"), ok.uploaded, ok.scored("OK")])
    await tables.inspections.save([waiting.uploaded, elsewhere.uploaded])
    told = await tables.inspections.stats(product="cap", since=at(-1), bucket="day")
    assert (told["all"]["total"], told["all"]["NG"], told["all"]["pending"]) == (3, 1, 1)
    assert told["unacknowledged"] == 1
    assert [(lot["lot_id"], lot["total"]) for lot in told["by_lot"]] == [(None, 1), ("L1", 2)]
    assert [(day["from"], day["total"]) for day in told["by_time"]] == [
        ("2026-11-22T15:00:00.000Z", 2),
        ("2026-11-23T15:00:00.000Z", 1),
    ]
    later = await tables.inspections.stats(product=None, since=at(10), bucket=None)
    assert (later["all"]["total"], later["by_time"]) == (1, [])


async def test_the_newest_state_wins_whatever_arrives_last(tables: Tables) -> None:
    await tables.inspections.save([configured(2, display_name="new"), configured(1)])
    assert (await tables.catalog.product("cap"))["display_name"] == "new"
    newer = registered("c1", 9, defect_type="dent")
    assert await tables.inspections.save([newer, registered("c1", 5)]) == [True, False]
    (case,) = await tables.catalog.rows("cases", "cap")
    assert case["defect_type"] == "dent"
    await tables.inspections.save(
        [newer.model_copy(update={"occurred_at": at(10), "removed": True})]
    )
    assert await tables.catalog.rows("cases", "cap") == []


async def test_a_removed_product_is_unknown_and_keeps_counting_revisions(tables: Tables) -> None:
    await tables.outbox.append([configured(1)])
    await tables.outbox.append([configured(1, product="볼트")])
    assert [row["product"] for row in await tables.catalog.products()] == ["cap", "볼트"]
    await tables.outbox.append([configured(2, removed=True)])
    assert await tables.catalog.product("cap") is None
    assert [row["product"] for row in await tables.catalog.products()] == ["볼트"]
    with pytest.raises(ConflictError):
        await tables.outbox.append([configured(1)])


async def test_rows_of_a_kind_are_paged_newest_first(tables: Tables) -> None:
    await tables.inspections.save([manual(f"m{n}", n) for n in range(5)])
    await tables.inspections.save([manual("x", 9, product="bolt")])
    page = await tables.catalog.rows("manuals", "cap", limit=2, offset=1)
    assert [row["manual_id"] for row in page] == ["m3", "m2"]
    (one,) = await tables.catalog.rows("manuals", row_id="x")
    assert one["product"] == "bolt"


async def test_a_defect_type_is_added_once(tables: Tables) -> None:
    scratch = {"code": "scratch", "name_ko": "긁힘", "name_en": "Scratch"}
    await tables.catalog.add_defect_type("cap", scratch)
    await tables.catalog.add_defect_type("bolt", scratch)
    for again in (scratch, {**scratch, "code": "s2", "name_en": "S"}):
        with pytest.raises(ConflictError):
            await tables.catalog.add_defect_type("cap", again)
    (row,) = await tables.catalog.rows("defect_types", "cap")
    assert row["name_ko"] == "긁힘"
    await tables.catalog.note_search({"product": "cap", "k": 5, "hits": 2})


async def test_text_with_a_nul_is_kept_without_it(tables: Tables) -> None:
    story = Story("a\x00b")
    assert await tables.inspections.save([story.uploaded]) == [True]
    assert await tables.inspections.get(story.image_id) is not None


async def test_arrivals_are_thinned_and_only_production_counts(tables: Tables) -> None:
    stories = [Story(f"P-{n}", received_s=4 * n, source="cam-1") for n in range(100)]
    stories += [Story(f"Q-{n}", received_s=100 * n, source="cam-2") for n in range(3)]
    stories.append(Story("golden", received_s=5000, source="cam-1", purpose="golden"))
    stories.append(Story("nameless", received_s=5000))
    await tables.outbox.append([story.uploaded for story in stories])
    await tables.outbox.reserve(Story("storing", received_s=5000, source="cam-1").uploaded)
    last = await tables.arrivals.last(at(0))
    assert last == {"cam-1": at(396), "cam-2": at(200)}
    assert await tables.arrivals.last(at(300)) == {"cam-1": at(396)}
    thinned = await tables.arrivals.thinned("cam-1", at(0))
    assert thinned == [at(396 - 16 * n) for n in range(21)]
    assert await tables.arrivals.thinned("cam-2", at(50)) == [at(200), at(100)]


async def test_what_waits_for_a_verdict_is_found_by_age(tables: Tables) -> None:
    stories = [Story(f"P-{n}", received_s=n) for n in range(4)]
    await tables.outbox.append([story.uploaded for story in stories])
    await tables.inspections.save([stories[0].scored("OK"), stories[3].buried("anomaly")])
    waiting = await tables.arrivals.waiting(at(0), at(3))
    assert waiting is not None
    assert tuple(waiting)[:3] == (stories[1].image_id, at(1), 2)
    assert not waiting.has_more
    assert await tables.arrivals.waiting(at(0), at(1)) is None
