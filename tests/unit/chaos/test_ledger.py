from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.chaos.book import Kind
from app.chaos.facts import CommitSeen
from app.chaos.ledger import judge, summary
from schemas.anomalies import ImageScored
from schemas.dead_letters import DeadLetter
from schemas.embeddings import ImageEmbedded
from schemas.event import Event
from schemas.images import ImageUploaded
from schemas.message import TopicPartition
from schemas.reports import ImageExplained
from tests.ledger_rig import AT, History, clean_history, digest, letter_about, subject_of


def kinds(history: History) -> set[Kind]:
    return {violation.kind for violation in judge(history.facts())}


def changed(event: Event | None, **fields: Any) -> Any:
    assert event is not None
    return event.model_copy(update=fields)


def test_a_clean_history_with_its_poison_passes() -> None:
    assert judge(clean_history().facts()) == []


def test_no_history_at_all_passes_and_a_held_event_is_counted() -> None:
    assert judge(History().facts()) == []


# -- one broken promise each -------------------------------------------------------------------


def test_an_accepted_image_that_was_never_published_is_lost() -> None:
    history = clean_history()
    history.log = [
        entry
        for entry in history.log
        if getattr(getattr(entry.event, "subject", None), "image_id", "")
        != history.sent[0].image_id
    ]
    assert "lost" in kinds(history)


@pytest.mark.parametrize("kind", [ImageEmbedded, ImageScored, ImageExplained])
def test_an_image_that_a_stage_never_answered_is_lost(kind: type[Event]) -> None:
    history = clean_history()
    history.log.remove(history.entries(kind)[0])
    assert {"lost", "miscount"} <= kinds(history)


@pytest.mark.parametrize("status", ["pending", "failed", "missing"])
def test_an_accepted_image_that_is_not_complete_is_lost(status: str) -> None:
    history = clean_history()
    history.statuses[history.sent[1].image_id] = status
    assert kinds(history) == {"lost"}


@pytest.mark.parametrize("table", ["images", "inspections", "dead_letters"])
def test_an_event_without_its_row_is_lost(table: str) -> None:
    history = clean_history()
    history.keep_row = lambda row: row.table != table
    assert kinds(history) == {"lost"}


def test_a_case_that_the_index_does_not_hold_is_lost() -> None:
    history = clean_history()
    history.indexed.pop()
    assert kinds(history) == {"lost"}


def test_a_duplicate_with_another_id_is_found() -> None:
    history = clean_history()
    history.add(changed(history.entries(ImageScored)[0].event, event_id=uuid4()))
    assert "unequal duplicate" in kinds(history)


def test_an_upload_published_under_two_ids_is_found() -> None:
    history = clean_history()
    history.answer(history.add(changed(history.entries(ImageUploaded)[0].event, event_id=uuid4())))
    assert "unequal duplicate" in kinds(history)


def test_the_same_id_with_other_words_is_found() -> None:
    history = clean_history()
    history.add(changed(history.entries(ImageScored)[0].event, verdict="NG"))
    assert kinds(history) == {"unequal duplicate"}


def test_an_event_that_is_both_answered_and_buried_is_found() -> None:
    history = clean_history()
    history.add(letter_about("anomaly", history.entries(ImageUploaded)[0], "retries_exhausted"))
    assert {"unequal duplicate", "wrong dead letter"} <= kinds(history)


def test_swapped_results_are_found() -> None:
    history = clean_history()
    one, other = history.entries(ImageScored)[0], history.entries(ImageScored)[2]
    assert isinstance(one.event, ImageScored)
    assert isinstance(other.event, ImageScored)
    for entry, said in ((one, other.event), (other, one.event)):
        history.replace(entry, changed(entry.event, verdict=said.verdict, score=said.score))
    assert "wrong result" in kinds(history)


def test_a_result_that_carries_another_images_subject_is_found() -> None:
    history = clean_history()
    entry = history.entries(ImageEmbedded)[0]
    history.replace(entry, changed(entry.event, subject=subject_of(2, picture="scratched")))
    assert "wrong result" in kinds(history)


def test_a_result_on_other_bytes_than_were_sent_is_found() -> None:
    history = clean_history()
    sent = history.sent[0]
    history.sent[0] = type(sent)(sent.image_id, digest("others"), sent.station, sent.number)
    assert "wrong result" in kinds(history)


def test_a_score_that_the_bank_does_not_give_is_found_though_the_verdict_is_right() -> None:
    history = clean_history()
    entry = history.entries(ImageScored)[0]
    history.replace(entry, changed(entry.event, score=1.2))
    assert kinds(history) == {"wrong result"}


def test_an_error_instead_of_a_verdict_is_found() -> None:
    history = clean_history()
    entry = history.entries(ImageScored)[0]
    said = changed(entry.event, verdict="ERROR", score=None, bank_version=None)
    history.replace(entry, said)
    assert "wrong result" in kinds(history)


def test_a_verdict_on_a_broken_picture_is_found() -> None:
    history = clean_history()
    letters = [
        entry
        for entry in history.entries(DeadLetter)
        if isinstance(entry.event, DeadLetter) and entry.event.stage == "anomaly"
    ]
    history.log.remove(letters[0])
    broken = next(
        entry
        for entry in history.entries(ImageUploaded)
        if isinstance(entry.event, ImageUploaded)
        and entry.event.subject.image.sha256 == digest("broken")
    )
    history.answer(broken)
    assert "wrong result" in kinds(history)


def test_a_row_that_says_other_than_its_event_is_found() -> None:
    history = clean_history()
    event = history.entries(ImageScored)[0].event
    assert event is not None
    row = history.row_of(event)
    assert row is not None
    history.keep_row = lambda one: one != row
    history.extra_rows.append(row._replace(verdict="NG"))
    assert kinds(history) == {"wrong result"}


def test_an_answer_that_nobody_asked_for_is_found() -> None:
    history = clean_history()
    asked_by_nobody = {"event_id": uuid4(), "trigger_event_id": uuid4()}
    history.add(changed(history.entries(ImageEmbedded)[0].event, **asked_by_nobody))
    assert {"wrong result", "miscount"} <= kinds(history)


def test_a_good_picture_that_was_buried_is_found() -> None:
    history = clean_history()
    upload = history.upload(7, picture="good")
    for stage in ("embed", "anomaly"):
        history.add(letter_about(stage, upload, "retries_exhausted"))
    assert kinds(history) == {"wrong dead letter"}


def test_poison_that_was_buried_for_another_reason_is_found() -> None:
    history = clean_history()
    place = next(iter(history.planted))
    history.planted[place] = history.planted[place] | {"anomaly": "schema"}
    assert kinds(history) == {"wrong dead letter"}


def test_poison_that_was_not_buried_is_found() -> None:
    history = clean_history()
    place = next(iter(history.planted))
    history.log = [
        entry
        for entry in history.log
        if not (
            isinstance(entry.event, DeadLetter)
            and entry.event.stage == "record"
            and entry.event.origin.offset == place.offset
        )
    ]
    assert kinds(history) == {"wrong dead letter"}


@pytest.mark.parametrize("kind", [ImageUploaded, ImageEmbedded, ImageScored])
def test_two_events_of_a_key_that_changed_places_are_found(kind: type[Event]) -> None:
    history = clean_history()
    same_key = [entry for entry in history.entries(kind) if entry.key == "s0"]
    history.swap(same_key[0], same_key[1])
    assert "order" in kinds(history)


def test_events_of_different_keys_may_change_places() -> None:
    history = clean_history()
    one, other = history.entries(ImageScored)[0], history.entries(ImageScored)[1]
    assert one.key != other.key
    history.commits.clear()
    first, second = history.log.index(one), history.log.index(other)
    history.log[first] = other._replace(offset=one.offset)
    history.log[second] = one._replace(offset=other.offset)
    assert kinds(history) == set()


def test_a_commit_past_work_whose_answer_was_not_there_yet_is_found() -> None:
    history = clean_history()
    uploads, scores = TopicPartition("images.uploaded", 0), TopicPartition("images.scored", 0)
    history.commits.append(CommitSeen("anomaly", {uploads: 3}, {uploads: 4, scores: 3}))
    assert kinds(history) == set()
    history.commits.append(CommitSeen("anomaly", {uploads: 4}, {uploads: 4, scores: 3}))
    assert kinds(history) == {"early commit"}


def test_a_double_row_is_found() -> None:
    history = clean_history()
    history.extra_rows.append(next(iter(history.rows())))
    assert kinds(history) == {"double row"}


def test_a_second_answer_to_one_question_is_a_double_row_though_its_id_differs() -> None:
    history = clean_history()
    rows = [row for row in history.rows() if row.table == "inspections"]
    history.extra_rows.append(rows[0]._replace(event_id=str(uuid4())))
    assert kinds(history) == {"double row"}


@pytest.mark.parametrize("name", ["case-1", "nobody-registered-this"])
def test_a_case_too_many_in_the_index_is_found(name: str) -> None:
    history = clean_history()
    history.indexed.append(name)
    assert kinds(history) == {"double row"}


def test_a_feed_event_that_never_came_is_found() -> None:
    history = clean_history()
    missed = history.entries(ImageScored)[1]
    history.keep_seen = lambda entry: entry != missed
    assert kinds(history) == {"feed gap"}


def test_a_feed_that_forgot_its_history_is_found() -> None:
    history = clean_history()
    history.gaps = 1
    assert kinds(history) == {"feed gap"}


def test_held_events_count_as_neither_in_nor_out() -> None:
    history = clean_history()
    held = replace(history.facts(), held={"embed": 1})
    assert {violation.kind for violation in judge(held)} == {"miscount"}


def test_the_summary_counts_each_kind_and_shows_examples() -> None:
    history = clean_history()
    history.gaps = 1
    history.indexed.pop()
    told = summary(judge(history.facts()))
    assert set(told) == {"lost", "feed gap"}
    assert told["lost"][0] == "1 times"
    assert "case-2" in told["lost"][1]


# -- histories as crashes make them ------------------------------------------------------------


@settings(deadline=None)
@given(st.data())
def test_redeliveries_with_equal_ids_are_no_violation(data: st.DataObject) -> None:
    """A killed worker publishes again what it had published since its last commit."""
    history = clean_history()
    size = len(history.log)
    for _ in range(data.draw(st.integers(1, 5))):
        event = history.log[data.draw(st.integers(0, size - 1))].event
        if event is not None and not isinstance(event, ImageUploaded | DeadLetter):
            late = changed(event, occurred_at=AT.replace(hour=data.draw(st.integers(9, 20))))
            history.add(late)
    assert judge(history.facts()) == []


@settings(deadline=None)
@given(st.data())
def test_whatever_event_goes_missing_is_missed(data: st.DataObject) -> None:
    history = clean_history()
    events = [entry for entry in history.log if entry.event is not None]
    history.log.remove(data.draw(st.sampled_from(events)))
    # The row and the feed's copy of it went with it: the log alone must tell.
    assert judge(history.facts()) != []


@settings(deadline=None)
@given(st.data())
def test_whatever_two_verdicts_change_places_are_noticed(data: st.DataObject) -> None:
    history = clean_history()
    scores = history.entries(ImageScored)
    one, other = data.draw(st.permutations(scores))[:2]
    assert isinstance(one.event, ImageScored)
    assert isinstance(other.event, ImageScored)
    history.replace(one, changed(one.event, subject=other.event.subject))
    history.replace(other, changed(other.event, subject=one.event.subject))
    assert "wrong result" in kinds(history)


def test_a_review_that_was_accepted_and_never_published_is_lost() -> None:
    facts = replace(clean_history().facts(), acted=(str(uuid4()),))
    assert {violation.kind for violation in judge(facts)} == {"lost"}
