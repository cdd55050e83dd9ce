"""Whether memory grows while processes come and go: between lives, and within them; pure.

A role that is killed every minute hides a leak twice. What one life leaks is gone with it; and
what grows from life to life, because what a process reads at its start grows, does not show
within any of them. So two slopes are taken. *Between lives* compares a process with its
predecessors at the same age. *Within lives* follows each process once it has warmed up: a young
one still fills its buffers, at a pace that says nothing of an old one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

Json = dict[str, Any]
Point = tuple[float, float, Hashable]

# Before this age a process is still being filled by its first work.
YOUNG_S = 20.0
# From this age on a process has warmed up (docs/chaos.md, "Memory"). Java compiles what it meets,
# so a broker's code grows by a megabyte a minute for four.
WARM_S = 90.0
JAVA_WARM_S = 240.0
# Ages that count as the same.
_AGE_STEP_S = 10.0
# Fewer lives, or less warm time of all together, say nothing.
LEAST_LIVES = 5
LEAST_WARM_S = 60.0
# What counts as about 0: an allocator gives back late, so the same work at another moment leaves
# a process this much larger or smaller, and the slope through such points is not exactly 0.
LIMIT_MB_PER_MIN = 1.0
BREATHING_SHARE = 0.02
# What a role takes in of a log that begins empty, at most: the feed's ring (notifier/hub.py). A
# run that is shorter than the ring takes to fill sees a slope that ends with it.
FILLS_MB = {"web": 32.0}


class Sample(NamedTuple):
    """Resident memory of one process, which is one life of its `place` (a role, or a node).

    `at_s` counts from any moment that all samples share, `age_s` from when the process could
    work, -1 before.
    """

    place: str
    pid: int
    at_s: float
    age_s: float
    rss_bytes: int


def limit_mb_per_min(size_mb: float, minutes: float, fills_mb: float = 0.0) -> float:
    """Return the largest slope that counts as about 0, of a size that was watched so long."""
    return max(LIMIT_MB_PER_MIN, max(BREATHING_SHARE * size_mb, fills_mb) / minutes)


class Slope(NamedTuple):
    """A growth in MB a minute, its standard error, the lives and the minutes that it is from.

    `freedom` are the degrees of freedom of that error.
    """

    mb_min: float
    error_mb_min: float
    lives: int
    minutes: float
    freedom: int
    fills_mb: float = 0.0

    def limit_mb_min(self, size_mb: float) -> float:
        """Largest slope of a process of this size that counts as about 0."""
        return limit_mb_per_min(size_mb, self.minutes, self.fills_mb)

    def grows(self, size_mb: float) -> bool:
        """Whether it is above the limit, and more than the scatter of the lives explains.

        That is asked at 99 %, for a run asks it of seven roles twice: Student's t, one-sided, whose
        quantile is written as what it comes to with many degrees of freedom and a correction.
        """
        certain = 2.33 * (1 + 2 / self.freedom + 2.6 / self.freedom**2)
        return self.mb_min > max(self.limit_mb_min(size_mb), certain * self.error_mb_min)

    def as_json(self, size_mb: float) -> Json:
        """Figures for a report."""
        return {
            "mb_min": round(self.mb_min, 2),
            "error_mb_min": round(self.error_mb_min, 2),
            "limit_mb_min": round(self.limit_mb_min(size_mb), 2),
            "lives": self.lives,
            "minutes": round(self.minutes, 1),
        }


def between_lives(samples: Sequence[Sample]) -> Slope | None:
    """Growth from life to life at equal age; None where too few lives reached the same age.

    Least squares of size against the moment, with an intercept for each place and age, so that
    neither warming up nor a difference between nodes is growth.
    """
    cells: dict[tuple[str, int], dict[int, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for one in samples:
        if one.age_s >= YOUNG_S:
            cells[one.place, int(one.age_s // _AGE_STEP_S)][one.pid].append(one)
    groups = [
        [
            (_mean(one.at_s for one in life), _mean(one.rss_bytes for one in life), pid)
            for pid, life in lives.items()
        ]
        for lives in cells.values()
        if len(lives) > 1
    ]
    slope = _slope(groups)
    return slope if slope is not None and slope.lives >= LEAST_LIVES else None


def within_lives(samples: Sequence[Sample], warm_s: float = WARM_S) -> Slope | None:
    """Growth within lives older than `warm_s`, an intercept each; None where too little is."""
    lives: dict[int, list[Sample]] = defaultdict(list)
    for one in samples:
        if one.age_s >= warm_s:
            lives[one.pid].append(one)
    watched_s = sum(life[-1].age_s - life[0].age_s for life in lives.values())
    if watched_s < LEAST_WARM_S:
        return None
    groups = [
        # Samples of a second are no independent witnesses; half minutes nearly are.
        [(one.at_s, float(one.rss_bytes), (pid, one.age_s // 30)) for one in life]
        for pid, life in lives.items()
    ]
    slope = _slope(groups, intercepts=len(lives))
    if slope is None or slope.freedom < 1:
        return None
    return slope._replace(lives=len(lives), minutes=watched_s / 60)


def judge_memory(samples: Mapping[str, Sequence[Sample]]) -> dict[str, Json]:
    """Return per role its largest size, both slopes, and sentences about what grows."""
    return {role: _judge(role, of_role) for role, of_role in sorted(samples.items()) if of_role}


def _judge(role: str, samples: Sequence[Sample]) -> Json:
    size_mb = _mean(one.rss_bytes for one in samples if one.age_s >= 0) / 1e6
    warm_s = JAVA_WARM_S if role == "broker" else WARM_S
    between = between_lives(samples)
    if between is not None:
        between = between._replace(fills_mb=FILLS_MB.get(role, 0.0))
    slopes = {
        "between lives": between,
        "within lives": within_lives(samples, warm_s),
    }
    return {
        "max_mb": round(max(one.rss_bytes for one in samples) / 1e6, 1),
        **{
            name.replace(" ", "_"): None if slope is None else slope.as_json(size_mb)
            for name, slope in slopes.items()
        },
        "faults": [
            f"memory of {role} grows {name} by {slope.mb_min:.1f} MB a minute "
            f"(about 0 is up to {slope.limit_mb_min(size_mb):.1f})"
            for name, slope in slopes.items()
            if slope is not None and slope.grows(size_mb)
        ],
    }


def _slope(groups: Sequence[Sequence[Point]], intercepts: int = 1) -> Slope | None:
    """Fit (seconds, bytes, witness) with one slope and an intercept for each group.

    The error is that of a jackknife: how much the slope changes with each witness left out. Points
    of one witness err together, so that more of them would promise more than they know.
    `intercepts` counts those that every witness has a part in.
    """
    whole = _fit(groups)
    witnesses = {witness for group in groups for _, _, witness in group}
    without = [
        _fit([[point for point in group if point[2] != left_out] for group in groups])
        for left_out in witnesses
    ]
    slopes = [slope for slope in without if slope is not None]
    if whole is None or len(slopes) < len(witnesses):
        return None
    count, mean = len(slopes), _mean(slopes)
    error = math.sqrt((count - 1) / count * sum((slope - mean) ** 2 for slope in slopes))
    times = [at for group in groups for at, _, _ in group]
    minutes = (max(times) - min(times)) / 60
    freedom = count - intercepts - 1
    return Slope(whole * 60 / 1e6, error * 60 / 1e6, count, minutes, freedom)


def _fit(groups: Sequence[Sequence[Point]]) -> float | None:
    """Return the slope in bytes a second, None where all points share their moment."""
    pull = spread = 0.0
    for group in groups:
        mean_at, mean_size = _mean(at for at, _, _ in group), _mean(size for _, size, _ in group)
        pull += sum((at - mean_at) * (size - mean_size) for at, size, _ in group)
        spread += sum((at - mean_at) ** 2 for at, _, _ in group)
    return pull / spread if spread > 0 else None


def _mean(numbers: Any) -> float:
    listed = list(numbers)
    return sum(listed) / len(listed) if listed else 0.0
