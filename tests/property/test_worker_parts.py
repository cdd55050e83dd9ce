"""The worker's state machines against models: offsets, bisection, decisions, breaker, journal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.batching import Bisection
from pipeline.breaker import Breaker, Breakers, ProbePace
from pipeline.burial import BurialLimit, BurialWatch
from pipeline.errors import DependencyDownError, PoisonError, StalledError, TransientError
from pipeline.journal import Journal, JournalPolicy
from pipeline.offsets import OffsetTracker
from pipeline.retries import Bury, Held, Ladder, Outage, Wait, decide
from schemas.codec import MalformedEventError

NOW = datetime(2026, 3, 2, tzinfo=UTC)
gaps = st.lists(st.integers(1, 5), min_size=1, max_size=30)


@given(st.integers(0, 100), gaps, st.randoms(use_true_random=False))
def test_the_frontier_is_the_lowest_unfinished_offset_whatever_the_order(
    start: int, steps: list[int], order: object
) -> None:
    tracker = OffsetTracker(start)
    offsets = [start + sum(steps[:index]) for index in range(len(steps))]
    open_offsets: set[int] = set()
    admitted = iter(offsets)
    last = None
    for _ in range(2 * len(offsets)):
        coming = next(admitted, None) if order.random() < 0.5 else None  # type: ignore[attr-defined]  # Random
        if coming is not None:
            assert tracker.admit(coming)
            open_offsets.add(coming)
            last = coming
        elif open_offsets:
            done = order.choice(sorted(open_offsets))  # type: ignore[attr-defined]  # as above
            tracker.finish(done)
            open_offsets.discard(done)
        expected = min(open_offsets, default=start if last is None else last + 1)
        assert tracker.frontier == expected
        assert tracker.unfinished == len(open_offsets)


@given(gaps)
def test_the_frontier_never_goes_back(steps: list[int]) -> None:
    tracker = OffsetTracker(0)
    offsets = [sum(steps[:index]) for index in range(len(steps))]
    for offset in offsets:
        tracker.admit(offset)
    seen = [tracker.frontier or 0]
    for offset in reversed(offsets):
        tracker.finish(offset)
        seen.append(tracker.frontier or 0)
    assert seen == sorted(seen)
    assert seen[-1] == offsets[-1] + 1


def test_a_record_that_was_read_before_is_not_admitted_again() -> None:
    tracker = OffsetTracker(5)
    assert not tracker.admit(4)
    assert tracker.admit(5)
    assert not tracker.admit(5)
    assert OffsetTracker(None).frontier is None


@given(st.integers(0, 64), st.sets(st.integers(0, 63), max_size=6))
def test_bisection_leaves_only_the_guilty_without_a_result(count: int, guilty: set[int]) -> None:
    guilty = {index for index in guilty if index < count}
    search, calls = Bisection(count), 0
    while (span := search.span()) is not None:
        calls += 1
        if guilty & set(span):
            search.failed(ValueError())
        else:
            search.succeeded([f"result {index}" for index in span])
    assert set(search.errors) == guilty
    for index in range(count):
        assert search.results[index] == (None if index in guilty else f"result {index}")
    assert calls <= 1 + len(guilty) * 2 * max(1, (count - 1).bit_length())


@given(st.integers(1, 64))
def test_bisection_does_not_search_for_the_cause_of_an_outage(count: int) -> None:
    search = Bisection(count)
    search.failed(DependencyDownError("llm"))
    assert search.span() is None
    assert set(search.errors) == set(range(count))


@given(st.integers(1, 30))
def test_a_ladder_climbs_and_ends_within_a_minute(attempts: int) -> None:
    ladder = Ladder()
    delays = [ladder.delay_s(one) for one in range(1, ladder.rungs + 1)]
    assert delays == sorted(delays, key=lambda one: one or 0)
    assert sum(one or 0 for one in delays) < 60
    assert (ladder.delay_s(attempts) is None) == (attempts > ladder.rungs)


@given(st.integers(1, 30), st.floats(-100, 100))
def test_only_an_outage_and_a_wait_for_a_time_count_no_attempt(attempts: int, in_s: float) -> None:
    def verdict(error: Exception) -> Wait | Bury | Outage:
        return decide(error, attempts=attempts, now=NOW, ladder=Ladder(), bug_tries=3)

    past_ladder = attempts > Ladder().rungs
    transient = verdict(TransientError())
    assert transient == (
        Bury("retries_exhausted") if past_ladder else Wait(0.2 * 2 ** (attempts - 1), counted=True)
    )
    timed = verdict(TransientError(not_before=NOW + timedelta(seconds=in_s)))
    if timedelta(seconds=in_s) > timedelta():
        assert isinstance(timed, Wait)
        assert not timed.counted
    else:
        assert timed == transient
    assert verdict(DependencyDownError("objects")) == Outage("objects")
    assert verdict(PoisonError("corrupt_image")) == Bury("corrupt_image")
    assert verdict(MalformedEventError("schema", "x")) == Bury("schema")
    assert (verdict(KeyError()) == Bury("bug")) == (attempts >= 3)


@given(st.lists(st.floats(0, 100), max_size=20), st.floats(0, 100))
def test_held_events_come_back_when_due_earliest_first(dues: list[float], now: float) -> None:
    held: Held[float] = Held()
    for due in dues:
        held.add(due, due)
    assert list(held.pop_due(now)) == sorted(due for due in dues if due <= now)
    assert held.next_due == min((due for due in dues if due > now), default=None)


@given(st.lists(st.sampled_from(["fail", "close"]), max_size=30))
def test_a_breaker_waits_longer_with_each_failed_probe_and_forgets_on_success(
    outcomes: list[str],
) -> None:
    breaker, now, fails = Breaker(ProbePace(0.25, 5.0)), 0.0, 0
    for outcome in outcomes:
        now = max(now, breaker.retry_at)
        if outcome == "fail":
            breaker.trip(now)
            assert breaker.retry_at - now == pytest.approx(min(0.25 * 2**fails, 5.0))
            before = breaker.retry_at
            breaker.trip(now)  # of work that was under way
            assert breaker.retry_at == before
            fails += 1
        else:
            breaker.close()
            fails = 0
        assert breaker.is_closed == (outcome == "close")


def test_one_probe_at_a_time_goes_through_a_half_open_breaker() -> None:
    breakers, first, second = Breakers(ProbePace()), object(), object()
    assert breakers.admits(0.0)
    retry_at = breakers.trip("objects", 0.0, first)
    assert not breakers.admits(retry_at - 0.01)
    assert breakers.admits(retry_at)
    breakers.started(first)
    assert not breakers.admits(retry_at), "a second probe"
    assert not breakers.answered(second)
    breakers.dropped(first)
    assert breakers.admits(retry_at), "the probe was dropped; another may go"
    breakers.started(second)
    retry_at = breakers.trip("objects", retry_at, second)
    assert not breakers.admits(retry_at - 0.01)
    breakers.started(first)
    assert breakers.answered(first)
    assert breakers.all_closed
    assert breakers.open_names() == []


def test_work_flows_only_when_all_dependencies_are_back() -> None:
    breakers, probe = Breakers(ProbePace()), object()
    breakers.trip("objects", 0.0, None)
    breakers.trip("llm", 1.0, None)
    assert breakers.open_names() == ["objects", "llm"]
    assert not breakers.admits(0.9)
    assert breakers.admits(1.25)
    breakers.started(probe)
    assert breakers.answered(probe)


@given(st.integers(1, 6), st.integers(0, 1000))
def test_starts_without_progress_are_counted_across_machines(starts: int, offset: int) -> None:
    note = ""
    for number in range(1, starts + 1):
        journal = Journal.read(note, JournalPolicy())
        note = journal.open(offset)
        assert journal.starts == number
        assert journal.is_careful == (number >= 3)


@given(st.integers(1, 5), st.integers(1, 10))
def test_progress_ends_the_count(starts: int, step: int) -> None:
    journal = Journal(starts=starts - 1)
    journal.open(100)
    journal.horizon = 100 + step
    assert journal.note(100 + step) == ""
    assert not journal.is_careful


def test_carefulness_lasts_until_the_dangerous_stretch_is_over() -> None:
    journal = Journal(starts=2)
    journal.open(100)
    journal.horizon = 110
    assert journal.is_careful
    journal.note(109)
    assert journal.is_careful
    journal.note(110)
    assert not journal.is_careful


def test_a_name_found_at_two_starts_is_the_killer_and_names_in_between_change_nothing() -> None:
    note = Journal(starts=2).open(10)
    for _ in range(2):
        journal = Journal.read(note, JournalPolicy())
        journal.open(10)
        assert not journal.is_killer(12)
        journal.name(11)
        journal.note(10)
        journal.name(12)
        note = journal.note(10)
    journal = Journal.read(note, JournalPolicy())
    assert journal.is_killer(12)
    assert not journal.is_killer(11)


def test_an_orderly_end_blames_nobody() -> None:
    journal = Journal(starts=2)
    journal.open(10)
    journal.name(10)
    after = Journal.read(journal.note_at_rest(10), JournalPolicy())
    assert after.starts == 2
    assert not after.deaths


@given(st.text(max_size=60) | st.sampled_from(['{"starts":"x"}', "[]", "null", '{"deaths":[1]}']))
def test_metadata_of_others_counts_as_an_empty_journal(metadata: str) -> None:
    journal = Journal.read(metadata, JournalPolicy())
    assert journal.starts >= 0
    assert len(journal.open(5)) < 4096


@settings(max_examples=30)
@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_journal_fits_into_the_metadata_of_a_commit(count: int, base: int) -> None:
    journal = Journal(starts=5, deaths={base + one: 1 for one in range(count)})
    assert len(journal.open(base)) < 4096


def test_a_stage_that_buries_too_many_is_stopped_before_the_next_burial() -> None:
    watch = BurialWatch(BurialLimit(consecutive=3))
    watch.burying("bug")
    watch.burying("corrupt_image")
    watch.burying("retries_exhausted")
    with pytest.raises(StalledError):
        watch.burying("bug")
    watch = BurialWatch(BurialLimit(consecutive=2))
    for _ in range(10):
        watch.burying("bug")
        watch.settled()


def test_the_share_of_burials_is_limited_too() -> None:
    watch = BurialWatch(BurialLimit(consecutive=None, ratio=0.5, window=10))
    for _ in range(4):
        watch.burying("bug")
        watch.settled(1)
    watch.burying("bug")
    watch.settled(1)
    with pytest.raises(StalledError, match="of the last 10"):
        watch.burying("bug")
    unlimited = BurialWatch(None)
    for _ in range(1000):
        unlimited.burying("bug")
