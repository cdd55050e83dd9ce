"""Whether images still come in and are still judged: what `GET /v1/line` is made of. Pure.

A camera that has fallen silent cannot be told from a line that stands still, so the page says
what is known: nothing has come for so long, although something came every so often.

    thinned arrivals  the last image of a source, then each earlier one at least 15 s before the
                      one taken last, at most 21: five minutes of a fast camera, more of a slow one
    expectation       three times the longest gap between these, at least a minute

With fewer than 21 there is no expectation and never an alarm: the source sends seldom, or has
just begun, or somebody uploaded one heap of files. A break in the line makes the longest gap, and
so the expectation, longer until five minutes of regular sending have followed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple, Protocol

THINNED_S = 15.0
THINNED_COUNT = 21
# Arrivals before this long ago say nothing of today, and a source silent for that long is off.
LOOK_BACK = timedelta(hours=12)
LEAST_SILENCE_S = 60.0
_GAPS = 3
# People send these; nobody expects them to.
UNEXPECTED_SOURCES = frozenset({"console"})
# Judging takes well under a second: an image older than this waits for something.
LATE_AFTER_S = 10.0
# A banner needs no more: beyond this many a backlog is told as "10,000+", at a bounded cost.
MOST_COUNTED = 10_000


class Waiting(NamedTuple):
    """Images without a verdict: the oldest, when it was received, how many there are.

    `images` ends at `MOST_COUNTED`; `has_more` then says that there are more than that.
    """

    image_id: str
    received_at: datetime
    images: int
    has_more: bool = False


class Arrivals(Protocol):
    """When images came, and which wait; only accepted images that count in production."""

    async def last(self, since: datetime) -> Mapping[str, datetime]:
        """Return when each source that sent anything since then sent its last image."""
        ...

    async def thinned(self, source: str, since: datetime) -> Sequence[datetime]:
        """Return a source's thinned arrivals, newest first; at most `THINNED_COUNT`."""
        ...

    async def waiting(self, since: datetime, before: datetime) -> Waiting | None:
        """Return what was received in between and has no verdict; None if nothing."""
        ...


class Silence(NamedTuple):
    """A source that sent regularly and stopped. `expected_s` is what was waited for."""

    source: str
    last_at: datetime
    expected_s: float


def expected_within_s(thinned: Sequence[datetime]) -> float | None:
    """Return how many seconds after its last image a source is silent, None: no expectation."""
    if len(thinned) < THINNED_COUNT:
        return None
    longest_s = max((later - sooner).total_seconds() for later, sooner in pairwise(thinned))
    return max(LEAST_SILENCE_S, _GAPS * longest_s)


class LineWatch:
    """Looks at arrivals; keeps the expectation of a source until it sends again."""

    def __init__(self, arrivals: Arrivals) -> None:
        """Only assign."""
        self._arrivals = arrivals
        self._expected: dict[str, tuple[datetime, float | None]] = {}

    async def silent(self, now: datetime) -> Sequence[Silence]:
        """Return the sources that are silent against their own habit, longest silent first."""
        since = now - LOOK_BACK
        last = await self._arrivals.last(since)
        found = []
        for source, last_at in last.items():
            silent_s = (now - last_at).total_seconds()
            if source in UNEXPECTED_SOURCES or silent_s < LEAST_SILENCE_S:
                continue
            expected_s = await self._expectation(source, last_at, since)
            if expected_s is not None and silent_s >= expected_s:
                found.append(Silence(source, last_at, expected_s))
        self._expected = {name: kept for name, kept in self._expected.items() if name in last}
        return sorted(found, key=lambda silence: silence.last_at)

    async def late(self, now: datetime) -> Waiting | None:
        """Return what waits for a verdict for too long."""
        before = now - timedelta(seconds=LATE_AFTER_S)
        return await self._arrivals.waiting(now - LOOK_BACK, before)

    async def _expectation(self, source: str, last_at: datetime, since: datetime) -> float | None:
        kept = self._expected.get(source)
        if kept is None or kept[0] != last_at:
            thinned = await self._arrivals.thinned(source, since)
            kept = (last_at, expected_within_s(thinned))
            self._expected[source] = kept
        return kept[1]
