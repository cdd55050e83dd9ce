"""The judge of frozen members, on a clock that is a number."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ports import WitnessView
from pipeline.watchdog import Symptom, Watchdog, WatchPolicy
from schemas.message import TopicPartition

PLACE = TopicPartition("images.uploaded", 0)
OTHER = TopicPartition("images.uploaded", 1)
POLICY = WatchPolicy(look_every_s=5, patience_s=20, rebuilds=2)
WELL = WitnessView(
    answers=True,
    is_stable=True,
    is_member=True,
    assigned=frozenset({PLACE}),
    positions={PLACE: 7},
    ends={PLACE: 7},
)
WAITING = WELL._replace(ends={PLACE: 9})
SILENT = WitnessView(answers=False)


class Life:
    """A member and its witness, second by second."""

    def __init__(self) -> None:
        self.now = 0.0
        self.dog = Watchdog(POLICY, 0.0)
        self.dog.owns({PLACE})

    def live(self, view: WitnessView | None, for_s: float, **does: Any) -> Symptom | None:
        """Let time pass; None as a view is a broker that is away. Ends at the first symptom."""
        end = self.now + for_s
        while self.now < end:
            self.now += 1
            if does.get("polls", True):
                self.dog.polled(1.0)
            if does.get("commits"):
                self.dog.committing(self.now)
            if self.dog.wants_look(self.now):
                self.dog.looked(self.now)
                if view is None:
                    self.dog.away()
                elif (symptom := self.dog.judge(view, self.now)) is not None:
                    return symptom
        return None


@pytest.mark.parametrize(
    ("view", "does", "slug"),
    [
        (WAITING, {}, "deaf"),
        (WAITING._replace(positions={PLACE: None}), {}, "deaf"),
        (WELL, {"commits": True}, "mute"),
        (WELL._replace(is_member=False, assigned=frozenset()), {}, "forgotten"),
        (WELL._replace(assigned=frozenset({PLACE, OTHER})), {}, "untaken"),
        (SILENT, {}, "silent"),
    ],
)
def test_a_contradiction_that_lasts_is_a_freeze_and_names_itself(
    view: WitnessView, does: dict[str, bool], slug: str
) -> None:
    life = Life()
    symptom = life.live(view, 60, **does)
    assert symptom is not None
    assert symptom.slug == slug
    assert "s" in symptom.sentence
    assert POLICY.patience_s <= life.now <= POLICY.patience_s + 2 * POLICY.look_every_s


@pytest.mark.parametrize(
    ("view", "does"),
    [
        (WELL, {}),
        (WAITING, {"polls": False}),
        (WAITING._replace(is_stable=False, is_member=False), {"polls": False}),
        (WELL._replace(is_stable=False, is_member=False, assigned=frozenset()), {}),
        (None, {"commits": True}),
    ],
    ids=["quiet log", "nobody polls", "rebalance, busy", "rebalance", "broker away"],
)
def test_what_contradicts_nothing_never_counts(
    view: WitnessView | None, does: dict[str, bool]
) -> None:
    assert Life().live(view, 3600, **does) is None


def test_a_paused_partition_is_not_deaf_and_is_judged_anew_when_it_flows() -> None:
    life = Life()
    life.dog.pauses({PLACE})
    assert life.live(WAITING, 3600) is None
    life.dog.pauses(())
    resumed = life.now
    assert life.live(WAITING, 60) is not None
    assert life.now - resumed >= POLICY.patience_s


def test_a_surplus_member_in_a_stable_group_is_well() -> None:
    life = Life()
    life.dog.owns(())
    surplus = WELL._replace(assigned=frozenset(), positions={}, ends={})
    assert life.live(surplus, 3600) is None


def test_slow_progress_is_progress() -> None:
    life = Life()
    for position in range(100):
        assert life.live(WAITING._replace(positions={PLACE: position}), 15) is None


def test_a_commit_that_is_refused_is_answered() -> None:
    life = Life()
    for _ in range(100):
        life.dog.committing(life.now)
        life.dog.committed()
        assert life.live(WELL, 15) is None


def test_a_commit_given_up_long_ago_does_not_make_the_next_one_late() -> None:
    life = Life()
    life.dog.committing(life.now - 3)
    assert life.live(WELL, 600) is None
    life.dog.committing(life.now)
    assert life.live(WELL, POLICY.look_every_s) is None


def test_an_outage_starts_every_count_anew() -> None:
    life = Life()
    assert life.live(WAITING, 19) is None
    assert life.live(None, 10) is None
    back = life.now
    assert life.live(WAITING, 60) is not None
    assert life.now - back >= POLICY.patience_s


def test_after_two_new_members_that_froze_as_well_it_is_at_its_end() -> None:
    life = Life()
    for _ in range(POLICY.rebuilds):
        assert life.live(SILENT, 60) is not None
        assert not life.dog.is_at_its_end
        life.dog.rebuilt(life.now)
    assert life.live(SILENT, 60) is not None
    assert life.dog.is_at_its_end


def test_a_member_that_lived_well_is_not_held_liable_for_those_before() -> None:
    life = Life()
    for _ in range(10):
        assert life.live(SILENT, 60) is not None
        assert not life.dog.is_at_its_end
        life.dog.rebuilt(life.now)
        life.dog.owns({PLACE})
        assert life.live(WELL, POLICY.healthy_after_s + POLICY.look_every_s) is None


_EVENTS = st.sampled_from(["well", "waiting", "silent", "away", "forgotten", "rebalance", "pause"])


@given(st.lists(st.tuples(_EVENTS, st.integers(1, 19)), max_size=60))
def test_no_mixture_of_short_troubles_is_a_freeze(history: list[tuple[str, int]]) -> None:
    life = Life()
    for trouble, for_s in history:
        life.dog.pauses({PLACE} if trouble == "pause" else ())
        view = {
            "waiting": WAITING,
            "silent": SILENT,
            "forgotten": WELL._replace(is_member=False),
            "rebalance": WELL._replace(is_stable=False, is_member=False),
            "away": None,
        }.get(trouble, WELL)
        # Whatever lasts less than the patience is followed by a look that finds all well.
        assert life.live(view, for_s) is None
        assert life.live(WELL, 2 * POLICY.look_every_s) is None


@given(st.lists(st.tuples(_EVENTS, st.integers(1, 40)), max_size=20))
def test_whatever_came_before_a_lasting_silence_is_noticed_in_time(
    history: list[tuple[str, int]],
) -> None:
    life = Life()
    for trouble, for_s in history:
        life.dog.pauses({PLACE} if trouble == "pause" else ())
        life.live(WELL if trouble != "away" else None, for_s)
    began = life.now
    assert life.live(SILENT, 60) is not None
    assert life.now - began <= POLICY.patience_s + 2 * POLICY.look_every_s
