"""Dead letters and their replays in SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from adapters.sql.dead_letters import SqlDeadLetters
from adapters.sql.replays import SqlReplays
from pipeline.letters import LetterFilter, PutBack
from schemas.dead_letters import DeadLetter
from schemas.message import Position, Record
from tests.letters_rig import FOREIGN, bury, came_back, order, put_back, record_of_event
from tests.story import Story, at, configured
from tests.tables import Tables, fresh_postgres, fresh_sqlite, sql_tables


@dataclass
class Letters:
    """The tables with what reads dead letters and puts them back."""

    tables: Tables
    letters: SqlDeadLetters
    replays: SqlReplays
    wakes: list[int]

    async def save(self, *events: Any) -> None:
        await self.tables.inspections.save(events)

    async def state(self, letter: DeadLetter) -> str:
        return str((await self.get(letter))["state"])

    async def get(self, letter: DeadLetter) -> dict[str, Any]:
        found = await self.letters.get(str(letter.event_id))
        assert found is not None
        return found

    async def replay(self, *chosen: DeadLetter, **changes: Any) -> str:
        """Let a replay run to its end; returns its id."""
        asked = order(*chosen, **changes)
        await self.replays.begin(asked, dry_run=False)
        while due := await self.replays.due(asked.replay_id, 10):
            ready = [put_back(letter, asked.replay_id) for letter in due]
            await self.replays.put_back(asked.replay_id, ready)
        return asked.replay_id

    async def progress(self, replay_id: str) -> dict[str, Any]:
        found = await self.replays.get(replay_id)
        assert found is not None
        return found

    async def sent(self) -> list[Record]:
        """What the outbox holds for the log, oldest first."""
        rows = await self.tables.outbox.pending(100)
        return [came_back(row.message, offset=100 + n) for n, row in enumerate(rows)]


@pytest_asyncio.fixture(
    params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs_postgres)]
)
async def rig(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> AsyncIterator[Letters]:
    if request.param == "sqlite":
        url = await fresh_sqlite(tmp_path_factory.getbasetemp() / "template.db", tmp_path)
    else:
        url = await fresh_postgres(request.getfixturevalue("postgres_url"))
    async with sql_tables(url) as tables:
        assert tables.database is not None
        wakes: list[int] = []
        replays = SqlReplays(tables.database, lambda: wakes.append(1))
        yield Letters(tables, SqlDeadLetters(tables.database), replays, wakes)


def buried(story: Story, stage: str = "anomaly", *, seconds: float = 1, **facts: Any) -> DeadLetter:
    record = record_of_event(story.uploaded, offset=int(seconds), headers=FOREIGN)
    return bury(record, stage, when=at(seconds), **facts)


async def test_letters_are_found_by_stage_reason_product_time_and_state_newest_first(
    rig: Letters,
) -> None:
    mine = [buried(Story(f"P-{n}"), seconds=n) for n in range(1, 6)]
    other = buried(Story("Q", product="plate"), "embed", seconds=9, reason="object_missing")
    await rig.save(*mine, other)

    async def found(**wanted: Any) -> list[str]:
        page, _ = await rig.letters.list(LetterFilter(**wanted), cursor=None, limit=50)
        return [letter["event_id"] for letter in page]

    newest_first = [str(letter.event_id) for letter in reversed(mine)]
    assert await found() == [str(other.event_id), *newest_first]
    for wanted in ({"stage": "embed"}, {"reason": "object_missing"}, {"product": "plate"}):
        assert await found(**wanted) == [str(other.event_id)]
    assert await found(since=at(2), until=at(4)) == newest_first[2:4]
    assert await found(state="resolved") == []
    counted = await rig.letters.counts(LetterFilter(product="cap", stage="embed"))
    assert counted == [
        {"stage": "anomaly", "reason": "corrupt_image", "open": 5, "replayed": 0, "resolved": 0}
    ]


async def test_pages_follow_each_other_without_gap_or_repetition(rig: Letters) -> None:
    mine = [buried(Story(f"P-{n}"), seconds=n // 3) for n in range(10)]
    await rig.save(*mine)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page, cursor = await rig.letters.list(LetterFilter(), cursor=cursor, limit=3)
        seen += [letter["event_id"] for letter in page]
        if cursor is None:
            break
    assert len(seen) == 10
    assert set(seen) == {str(letter.event_id) for letter in mine}


async def test_a_letter_tells_its_record_its_failure_and_its_trace(rig: Letters) -> None:
    story = Story()
    await rig.save(story.uploaded, letter := buried(story))
    told = await rig.get(letter)
    assert told["record"]["value"]["encoding"] == "json"
    assert told["record"]["value"]["data"]["event_id"] == str(story.uploaded.event_id)
    headers = {header["name"]: header for header in told["record"]["headers"]}
    assert headers["x-camera"]["encoding"] == "base64"
    assert told["trace_id"] == "ab" * 16
    assert told["thumbnail_url"] == f"/v1/images/{story.image_id}/thumbnail"
    assert (told["reason"], told["attempts"]) == ("corrupt_image", 1)


@pytest.mark.parametrize("order_of_arrival", ["letter first", "answer first", "together"])
async def test_a_letter_is_resolved_by_its_stages_answer_in_whatever_order_they_arrive(
    rig: Letters, order_of_arrival: str
) -> None:
    story = Story()
    letter, answer = buried(story), story.scored("OK")
    events: list[Any] = [story.uploaded, letter, answer]
    if order_of_arrival == "together":
        await rig.save(*events)
    else:
        later = events.pop(2 if order_of_arrival == "letter first" else 1)
        await rig.save(*events)
        await rig.save(later)
    told = await rig.get(letter)
    assert (told["state"], told["resolved_by"]) == ("resolved", str(answer.event_id))
    await rig.save(story.embedded(), story.skipped("llm"))
    view = await rig.tables.inspections.get(story.image_id)
    assert (view["status"], view["dead_letters"]) == ("complete", [])


async def test_another_stages_answer_resolves_nothing(rig: Letters) -> None:
    story = Story()
    await rig.save(letter := buried(story), story.embedded())
    assert await rig.state(letter) == "open"


async def test_a_letter_of_an_image_that_was_inspected_again_is_resolved_by_that_answer(
    rig: Letters,
) -> None:
    story = Story()
    await rig.save(story.uploaded, letter := buried(story), other := buried(story, "embed"))
    request = story.requested(50)
    await rig.tables.outbox.append([request])
    assert await rig.state(letter) == "open"
    await rig.save(answer := story.scored("OK", request))
    told = await rig.get(letter)
    assert (told["state"], told["resolved_by"]) == ("resolved", str(answer.event_id))
    assert await rig.state(other) == "open"


async def test_the_record_stages_letter_is_resolved_by_the_event_in_the_tables(
    rig: Letters,
) -> None:
    story = Story()
    scored = story.scored("NG")
    of_upload = bury(record_of_event(story.uploaded), "record")
    of_result = bury(record_of_event(scored), "record")
    product = configured(1)
    of_state = bury(record_of_event(product), "record")
    await rig.save(of_upload, of_result, of_state)
    assert await rig.state(of_upload) == "open"
    await rig.save(story.uploaded, scored, product)
    for letter in (of_upload, of_result, of_state):
        assert await rig.state(letter) == "resolved"


async def test_a_replay_puts_back_the_original_bytes_key_and_headers_and_names_the_letter(
    rig: Letters,
) -> None:
    story = Story()
    record = record_of_event(story.uploaded, headers=FOREIGN)
    await rig.save(letter := bury(record, "anomaly"))
    replay_id = await rig.replay(letter)
    (back,) = await rig.sent()
    assert (back.topic, back.key, back.value) == (record.topic, record.key, record.value)
    assert back.headers == (
        *record.headers,
        ("x-replay-of", str(letter.event_id).encode()),
        ("x-replay-run", replay_id.encode()),
        ("x-replay-stage", b"anomaly"),
    )
    assert await rig.state(letter) == "replayed"
    assert rig.wakes == [1]


async def test_a_replay_takes_each_letter_once_whoever_asks_again(rig: Letters) -> None:
    mine = [buried(Story(f"P-{n}"), seconds=n) for n in range(5)]
    await rig.save(*mine)
    asked = order()
    first = await rig.replays.begin(asked, dry_run=False)
    again = await rig.replays.begin(asked, dry_run=False)
    assert (first["letters"], first["duplicate"]) == (5, False)
    assert (again["letters"], again["duplicate"]) == (5, True)
    # Another replay finds nothing left, neither by filter nor by id.
    assert (await rig.replays.begin(order(), dry_run=False))["letters"] == 0
    by_id = await rig.replays.begin(order(*mine[:2]), dry_run=False)
    assert by_id == {"letters": 0, "left_out": {"queued": 2}, "duplicate": False}
    due = await rig.replays.due(asked.replay_id, 10)
    ready = [put_back(letter, asked.replay_id) for letter in due]
    # A runner that lost track comes with all of them, again and again.
    assert await rig.replays.put_back(asked.replay_id, ready[:2]) == 2
    assert await rig.replays.put_back(asked.replay_id, ready) == 3
    assert await rig.replays.put_back(asked.replay_id, ready) == 0
    assert [letter.event_id for letter in due] == [letter.event_id for letter in mine]
    assert len(await rig.sent()) == 5
    told = await rig.progress(asked.replay_id)
    assert (told["put_back"], told["passed_over"], told["left"]) == (5, 0, 0)
    by_id = await rig.replays.begin(order(*mine[:2]), dry_run=False)
    assert by_id["left_out"] == {"waiting": 2}


async def test_a_dry_run_counts_and_changes_nothing(rig: Letters) -> None:
    await rig.save(letter := buried(Story()))
    asked = order()
    assert (await rig.replays.begin(asked, dry_run=True))["letters"] == 1
    assert await rig.replays.get(asked.replay_id) is None
    assert await rig.state(letter) == "open"


async def test_what_is_still_poison_returns_as_one_letter_linked_both_ways(rig: Letters) -> None:
    story = Story()
    await rig.save(story.uploaded, first := buried(story))
    first_replay = await rig.replay(first)
    (back,) = await rig.sent()
    # The relay may publish a row twice: both copies fail, and make one letter.
    copies = [back, back._replace(offset=back.offset + 1)]
    second, twin = (bury(copy, "anomaly", when=at(50)) for copy in copies)
    assert second.event_id == twin.event_id != first.event_id
    await rig.save(second, twin)
    told = await rig.get(first)
    assert (told["state"], told["returned_as"]) == ("replayed", str(second.event_id))
    assert told["history"]["replays"][0]["outcome"] == "returned"
    assert [one["event_id"] for one in told["history"]["returned"]] == [str(second.event_id)]
    newer = await rig.get(second)
    assert (newer["state"], newer["replay_of"]) == ("open", str(first.event_id))
    assert [one["event_id"] for one in newer["history"]["earlier"]] == [str(first.event_id)]
    assert (await rig.progress(first_replay))["returned"] == 1
    # One record, one open letter; the former is answered for by the newer one.
    assert (await rig.replays.begin(order(first), dry_run=True))["left_out"] == {"returned": 1}
    view = await rig.tables.inspections.get(story.image_id)
    assert [one["event_id"] for one in view["dead_letters"]] == [str(second.event_id)]
    # Mended at last, both are resolved by the one answer.
    await rig.replay(second)
    await rig.save(answer := story.scored("OK"))
    for letter in (first, second):
        told = await rig.get(letter)
        assert (told["state"], told["resolved_by"]) == ("resolved", str(answer.event_id))


async def test_two_copies_that_come_back_leave_one_open_letter(rig: Letters) -> None:
    await rig.save(first := buried(Story()))
    await rig.replay(first)
    await rig.replay(first, again=True)
    backs = await rig.sent()
    second, third = (bury(back, "anomaly", when=at(50 + n)) for n, back in enumerate(backs))
    await rig.save(second)
    await rig.save(third)
    assert [await rig.state(one) for one in (first, second, third)] == [
        "replayed", "replayed", "open",
    ]  # fmt: skip


async def test_a_stopped_replay_puts_back_no_more_until_it_is_resumed(rig: Letters) -> None:
    mine = [buried(Story(f"P-{n}"), seconds=n) for n in range(3)]
    await rig.save(*mine)
    asked = order()
    await rig.replays.begin(asked, dry_run=False)
    ready = [put_back(letter, asked.replay_id) for letter in mine]
    assert await rig.replays.put_back(asked.replay_id, ready[:1]) == 1
    await rig.replays.steer(asked.replay_id, "stop", "lee")
    assert await rig.replays.running() == {}
    assert await rig.replays.put_back(asked.replay_id, ready) == 0
    told = await rig.progress(asked.replay_id)
    assert (told["state"], told["left"], told["put_back"]) == ("stopped", 2, 1)
    assert [(act["action"], act["by"]) for act in told["steered"]] == [("stop", "lee")]
    # What it left may be taken by another replay; resumed, it passes over what that one put back.
    await rig.replay(mine[1])
    await rig.replays.steer(asked.replay_id, "resume", "lee")
    assert await rig.replays.running() == {asked.replay_id: 1000.0}
    assert await rig.replays.put_back(asked.replay_id, ready) == 1
    told = await rig.progress(asked.replay_id)
    assert (told["state"], told["put_back"], told["passed_over_for"]) == ("done", 2, {"waiting": 1})
    assert len(await rig.sent()) == 3


async def test_a_letter_settled_meanwhile_is_passed_over(rig: Letters) -> None:
    story = Story()
    await rig.save(letter := buried(story), gone := buried(Story("Q")))
    asked = order()
    await rig.replays.begin(asked, dry_run=False)
    await rig.save(story.scored("OK"))
    ready = [
        put_back(letter, asked.replay_id),
        PutBack(str(gone.event_id), passed_over="record_gone"),
    ]
    assert await rig.replays.put_back(asked.replay_id, ready) == 0
    told = await rig.progress(asked.replay_id)
    assert told["state"] == "done"
    assert told["passed_over_for"] == {"resolved": 1, "record_gone": 1}
    assert await rig.sent() == []
    assert await rig.state(gone) == "open"


async def test_a_record_of_a_state_topic_is_never_put_back(rig: Letters) -> None:
    letter = bury(record_of_event(configured(1)), "record")
    await rig.save(letter)
    assert (await rig.replays.begin(order(), dry_run=True))["letters"] == 0
    named = await rig.replays.begin(order(letter), dry_run=True)
    assert named["left_out"] == {"state_topic": 1}
    assert (await rig.get(letter))["is_replayable"] is False


async def test_a_record_that_was_no_event_is_resolved_once_it_can_be_read(rig: Letters) -> None:
    story = Story()
    record = record_of_event(story.uploaded)
    # As an older version buried it, which could not read what this one can.
    letter = bury(record._replace(value=b"{}"), "anomaly", reason="schema")
    origin = bury(record, "anomaly").origin
    letter = letter.model_copy(update={"origin": origin})
    assert letter.trigger_event_id is None
    await rig.save(letter)
    await rig.replay(letter)
    await rig.save(story.scored("OK"))
    assert await rig.state(letter) == "resolved"


async def test_every_replay_stays_on_record_with_who_why_what_and_outcome(rig: Letters) -> None:
    good, bad, silent = Story("good"), Story("bad"), Story("silent")
    letters = [buried(story, seconds=n) for n, story in enumerate((good, bad, silent))]
    await rig.save(*letters)
    replay_id = await rig.replay(
        reason="lamp replaced", letter_filter=LetterFilter(stage="anomaly", since=at(0))
    )
    backs = await rig.sent()
    await rig.save(good.scored("OK"), bury(backs[1], "anomaly"))
    told = await rig.progress(replay_id)
    facts = ("requested_by", "reason", "letters", "put_back", "resolved", "returned", "waiting")
    assert [told[name] for name in facts] == ["kim", "lamp replaced", 3, 3, 1, 1, 1]
    assert told["chosen"]["filter"] == {"stage": "anomaly", "since": "2026-11-23T00:00:00.000Z"}
    assert [one["replay_id"] for one in await rig.replays.list(limit=10, offset=0)] == [replay_id]


async def test_a_letters_history_tells_where_its_record_lies_now(rig: Letters) -> None:
    await rig.save(letter := buried(Story()))
    await rig.replay(letter)
    (row,) = await rig.tables.outbox.pending(10)
    await rig.tables.outbox.mark_published({row.row_id: Position("images.uploaded", 2, 77)})
    (told,) = (await rig.get(letter))["history"]["replays"]
    assert (told["topic"], told["partition"], told["offset"]) == ("images.uploaded", 2, 77)
    assert (told["outcome"], told["requested_by"]) == ("waiting", "kim")
