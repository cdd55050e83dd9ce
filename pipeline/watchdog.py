"""When a group member is frozen: joined and deaf, mute, or forgotten; pure, time is passed in.

A client can hang in its group without a word (aiokafka issues 1154, 847, 983, 718): it never gets
partitions, its heartbeats and commits go unanswered, or its fetch task is dead. From inside that
looks like a quiet log. So the judge hears two sides: what the member does (`polled`, `committed`),
and what a witness sees over a connection of its own (`WitnessView`). Only a contradiction that
lasts counts. Slow work, paused partitions, an empty log, a surplus member and a broker that is
away contradict nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.ports import WitnessView
from schemas.message import TopicPartition

# A poll that took longer than this, or a pause between polls, is no proof of listening.
_LONGEST_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class WatchPolicy:
    """Paces of the watchdog, in seconds.

    Attributes:
        look_every_s: time between two looks of the witness.
        patience_s: how long a contradiction lasts before the member counts as frozen.
        rebuilds: how many new members may freeze in a row before the process leaves.
    """

    look_every_s: float = 5.0
    patience_s: float = 20.0
    rebuilds: int = 2

    @property
    def healthy_after_s(self) -> float:
        """A member that lived this long was healthy: the next freeze counts as the first."""
        return 4 * self.patience_s


class Symptom(NamedTuple):
    """What contradicts: a stable slug, and a sentence for people."""

    slug: str
    sentence: str


class Watchdog:
    """Judges one member after another."""

    def __init__(self, policy: WatchPolicy, now: float) -> None:
        """Nothing is known yet."""
        self._policy = policy
        self._since: dict[object, float] = {}
        self._positions: dict[TopicPartition, int | None] = {}
        self._listened_s = 0.0
        self._mute_since: float | None = None
        self._asked_at = now
        self._looked_at = now
        self._rebuilt_at = now
        self._in_a_row = 0
        self.owned: frozenset[TopicPartition] = frozenset()
        self.paused: frozenset[TopicPartition] = frozenset()

    # -- what the member does ---------------------------------------------------------------

    def polled(self, took_s: float) -> None:
        """Note a poll that was answered, with or without records."""
        self._listened_s += min(took_s, _LONGEST_POLL_S)

    def committing(self, now: float) -> None:
        """Note that a commit was asked for."""
        # A commit that was given up long ago and never repeated says nothing about this one.
        if self._mute_since is None or now - self._asked_at > self._policy.patience_s:
            self._mute_since = now
        self._asked_at = now

    def committed(self) -> None:
        """Note that a commit was answered; a refusal is an answer."""
        self._mute_since = None

    def owns(self, places: Collection[TopicPartition]) -> None:
        """Note which partitions the member took."""
        self.owned = frozenset(places)
        self._forget()

    def pauses(self, places: Collection[TopicPartition]) -> None:
        """Note which partitions are not to be read."""
        changed = self.paused ^ frozenset(places)
        self.paused = frozenset(places)
        for place in changed:
            self._since.pop(place, None)

    def rebuilt(self, now: float) -> None:
        """Note that another member takes over."""
        self._in_a_row += 1
        self._rebuilt_at = self._looked_at = now
        self.owned = frozenset()
        self._forget()

    # -- what the witness sees --------------------------------------------------------------

    def wants_look(self, now: float) -> bool:
        """Whether it is time for the witness to look."""
        return now - self._looked_at >= self._policy.look_every_s

    def looked(self, now: float) -> None:
        """Note that the witness was asked."""
        self._looked_at = now

    def away(self) -> None:
        """Note that nobody can reach the broker: nothing is the member's fault."""
        self._forget()

    def judge(self, view: WitnessView, now: float) -> Symptom | None:
        """Return what has contradicted the member for too long, None while all may be well."""
        if not view.answers:
            return self._lasting("silent", now, "the broker takes connections and answers none")
        self._since.pop("silent", None)
        if self._in_a_row and now - self._rebuilt_at >= self._policy.healthy_after_s:
            self._in_a_row = 0
        return self._mute(now) or self._outsider(view, now) or self._deaf(view)

    @property
    def is_at_its_end(self) -> bool:
        """Whether as many new members froze in a row as are worth a try."""
        return self._in_a_row >= self._policy.rebuilds

    def _mute(self, now: float) -> Symptom | None:
        since, limit_s = self._mute_since, self._policy.patience_s
        # A commit that nobody repeated says nothing about now.
        if since is None or now - since < limit_s or now - self._asked_at > limit_s:
            return None
        return Symptom("mute", f"no commit was answered for {now - since:.0f} s")

    def _outsider(self, view: WitnessView, now: float) -> Symptom | None:
        """The group is at rest and knows nothing of this member, or gave it what it never got."""
        forgotten = view.is_stable and not view.is_member
        untaken = view.is_stable and view.is_member and view.assigned != self.owned
        found = None
        for slug, holds, sentence in (
            ("forgotten", forgotten, "the group is stable without it"),
            ("untaken", untaken, "the group gave it partitions that it does not hold"),
        ):
            if holds:
                found = self._lasting(slug, now, sentence) or found
            else:
                self._since.pop(slug, None)
        return found

    def _deaf(self, view: WitnessView) -> Symptom | None:
        """Records lie in the log, and polls of an unpaused partition do not move."""
        found = None
        for place in self.owned:
            position = view.positions.get(place)
            waits = place not in self.paused and view.ends.get(place, 0) > (position or 0)
            if not waits or self._positions.get(place, -1) != position:
                self._since.pop(place, None)
            if waits:
                sentence = (
                    f"polls bring nothing of {place.topic}[{place.partition}] although records wait"
                )
                # Time spent polling, not time: a worker that is busy elsewhere listens to nobody.
                found = self._lasting(place, self._listened_s, sentence, "deaf") or found
            self._positions[place] = position
        return found

    def _lasting(self, key: object, at: float, sentence: str, slug: str = "") -> Symptom | None:
        since = self._since.setdefault(key, at)
        if at - since < self._policy.patience_s:
            return None
        return Symptom(slug or str(key), f"{sentence} for {at - since:.0f} s")

    def _forget(self) -> None:
        self._since.clear()
        self._positions.clear()
        self._mute_since = None
