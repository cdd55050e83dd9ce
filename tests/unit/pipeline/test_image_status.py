from __future__ import annotations

from itertools import permutations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.image_view import ImageFacts, ImageSummary, summarise
from pipeline.status import act_of, judge_image, outcome_of, trigger_of
from schemas.event import Event
from schemas.images import ImageUploaded
from tests.story import Story


def facts_of(events: list[Event]) -> ImageFacts:
    upload = next((trigger_of(e) for e in events if isinstance(e, ImageUploaded)), None)
    rest = [event for event in events if not isinstance(event, ImageUploaded)]
    return ImageFacts(
        upload,
        [t for t in map(trigger_of, rest) if t],
        [o for o in map(outcome_of, rest) if o],
        [a for a in map(act_of, rest) if a],
    )


def stand(*events: Event) -> Any:
    facts = facts_of(list(events))
    return judge_image(facts.upload, facts.requests, facts.outcomes)


def test_an_uploaded_image_waits_for_every_stage() -> None:
    state = stand(Story().uploaded)
    assert (state.status, state.verdict) == ("pending", None)
    assert state.waiting_for == ("embed", "anomaly", "llm")


def test_an_image_with_a_result_of_every_stage_is_complete() -> None:
    story = Story()
    scored = story.scored("NG")
    state = stand(story.uploaded, story.embedded(), scored, story.explained(scored))
    assert (state.status, state.verdict, state.waiting_for) == ("complete", "NG", ())


def test_results_before_their_upload_leave_the_image_pending() -> None:
    story = Story()
    scored = story.scored("OK")
    state = stand(story.embedded(), scored, story.skipped("llm", scored))
    assert (state.status, state.verdict) == ("pending", "OK")


def test_a_skipped_inspection_is_complete_and_not_judged() -> None:
    story = Story()
    state = stand(story.uploaded, story.embedded(), story.skipped("anomaly"))
    assert (state.status, state.verdict) == ("complete", "NOT_JUDGED")
    assert len(state.skipped) == 1


def test_a_dead_letter_makes_the_image_failed_and_settles_its_report() -> None:
    story = Story()
    state = stand(story.uploaded, story.embedded(), story.buried("anomaly"))
    assert (state.status, state.verdict) == ("failed", "ERROR")


def test_an_error_verdict_is_failed() -> None:
    story = Story()
    state = stand(story.uploaded, story.embedded(), story.scored("ERROR"))
    assert (state.status, state.verdict) == ("failed", "ERROR")


def test_a_replayed_dead_letter_that_succeeds_is_superseded() -> None:
    story = Story()
    buried, scored = story.buried("anomaly"), story.scored("OK")
    skip = story.skipped("llm", scored)
    state = stand(story.uploaded, story.embedded(), buried, scored, skip)
    assert (state.status, state.verdict, state.dead_letters) == ("complete", "OK", ())
    assert state.superseded == (str(buried.event_id),)


def test_a_request_makes_the_image_pending_and_its_result_the_current_one() -> None:
    story = Story()
    first = story.scored("OK")
    request = story.requested(10)
    known = [story.uploaded, story.embedded(), first, story.skipped("llm", first), request]
    waiting = stand(*known)
    assert (waiting.status, waiting.verdict) == ("pending", "OK")
    second = story.scored("NG", request)
    done = stand(*known, second)
    assert (done.status, done.verdict) == ("complete", "NG")
    assert done.current["anomaly"] == str(second.event_id)
    assert str(first.event_id) in done.superseded


def test_a_request_that_asks_for_a_report_waits_for_it() -> None:
    story = Story()
    request = story.requested(10, explain=True)
    scored = story.scored("NG", request)
    known = [story.uploaded, story.embedded(), story.skipped("anomaly"), request, scored]
    assert stand(*known).waiting_for == ("llm",)
    assert stand(*known, story.explained(scored)).status == "complete"


def test_a_later_skip_does_not_hide_a_report() -> None:
    story = Story()
    scored = story.scored("NG")
    report = story.explained(scored)
    request = story.requested(10)
    again = story.scored("NG", request)
    skip = story.skipped("llm", again)
    state = stand(story.uploaded, story.embedded(), scored, report, request, again, skip)
    assert state.current["llm"] == str(report.event_id)
    assert state.skipped == (str(skip.event_id),)


def test_a_request_is_newer_than_an_upload_from_a_clock_that_runs_ahead() -> None:
    story = Story(received_s=86_400)
    request = story.requested(10)
    result = story.scored("NG", request)
    state = stand(story.uploaded, story.embedded(), story.scored("OK"), request, result)
    assert state.verdict == "NG"


def test_a_dead_letter_of_the_record_stage_is_shown_and_fails_nothing() -> None:
    story = Story()
    buried = story.buried("record")
    state = stand(story.uploaded, story.embedded(), story.skipped("anomaly"), buried)
    assert state.status == "complete"
    assert state.dead_letters == (str(buried.event_id),)


def summary_of(*events: Event, quiet: bool = False) -> ImageSummary:
    facts = facts_of(list(events))
    return summarise(
        ImageFacts(facts.upload, facts.requests, facts.outcomes, facts.acts, quiet=quiet)
    )


def test_an_ng_is_an_open_alarm_until_acknowledged_or_decided() -> None:
    story = Story()
    scored = story.scored("NG")
    assert summary_of(story.uploaded, scored).is_open_alarm
    assert not summary_of(story.uploaded, scored, quiet=True).is_open_alarm
    seen = story.reviewed(5, acknowledges=scored.event_id)
    acknowledged = summary_of(story.uploaded, scored, seen)
    assert not acknowledged.is_open_alarm
    assert acknowledged.acknowledged_by == "kim"
    assert not summary_of(story.uploaded, scored, story.reviewed(5, "ng")).is_open_alarm


def test_a_new_ng_after_an_acknowledged_one_is_an_open_alarm_again() -> None:
    story = Story()
    first, request = story.scored("NG"), story.requested(10)
    seen = story.reviewed(5, acknowledges=first.event_id)
    summary = summary_of(story.uploaded, first, seen, request, story.scored("NG", request))
    assert summary.is_open_alarm
    assert summary.acknowledged_id is None


def test_an_undone_review_no_longer_stands() -> None:
    story = Story()
    first, second = story.reviewed(5, "ng", defect_type="scratch"), story.reviewed(6, "ok")
    undo = story.reviewed(7, undoes=second.event_id)
    summary = summary_of(story.uploaded, first, second, undo)
    assert (summary.decision, summary.defect_type) == ("ng", "scratch")


def _everything() -> list[Event]:
    """A long life: skipped, requested, buried, replayed, reviewed, undone, acknowledged."""
    story = Story()
    one, two = story.requested(10), story.requested(20, explain=True)
    bad, good = story.scored("ERROR", one), story.scored("NG", two)
    decided = story.reviewed(30, "ok")
    return [
        story.uploaded, story.embedded(), story.buried("embed"), story.skipped("anomaly"),
        one, bad, two, good, story.explained(good), decided,
        story.reviewed(31, undoes=decided.event_id),
        story.reviewed(32, acknowledges=good.event_id),
    ]  # fmt: skip


EVERYTHING = _everything()


@given(st.permutations(EVERYTHING))
def test_every_order_of_arrival_ends_in_the_same_place(events: list[Event]) -> None:
    assert summary_of(*events) == summary_of(*EVERYTHING)
    assert stand(*events) == stand(*EVERYTHING)


def test_no_order_of_a_short_life_is_complete_too_early() -> None:
    story = Story()
    scored = story.scored("OK")
    life = [story.uploaded, story.embedded(), scored, story.skipped("llm", scored)]
    for order in permutations(life):
        for known in range(1, len(order)):
            assert stand(*order[:known]).status == "pending"
        assert stand(*order).status == "complete"
