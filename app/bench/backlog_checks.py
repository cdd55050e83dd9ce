"""What a drained backlog must show: none lost or double, order, falling age, flat memory; pure."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from app.chaos.memory import limit_mb_per_min

Json = dict[str, Any]

# Partitions are read in runs of some hundred records: while one has its turn, the others age.
AGE_TOLERANCE_S = 15.0
AGE_TOLERANCE_SHARE = 0.05
# Buffers of a process that has just begun still fill after a minute of work (docs/chaos.md,
# "Memory"): where half a drain is shorter than this, its slope says nothing.
LEAST_MINUTES = 2.0
# After so long without a step, or without an answer of the broker, a drain is given up.
STUCK_AFTER_S = 120.0
UNANSWERED_LIMIT_S = 300.0


class Sample(NamedTuple):
    """One look at a stage. Ages are seconds, None when nothing waits."""

    at_s: float
    lag_records: int
    oldest_age_s: float | None
    rss_mb: float


class Size(NamedTuple):
    """Resident memory of a process at a moment."""

    at_s: float
    rss_mb: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Growth of a process over the second half of a drain, and what still counts as about 0.

    Both are None where that half is too short to tell.
    """

    slope_mb_per_min: float | None
    limit_mb_per_min: float | None
    peak_mb: float

    @property
    def fault(self) -> str | None:
        """Say that it grows."""
        if self.slope_mb_per_min is None or self.limit_mb_per_min is None:
            return None
        if self.slope_mb_per_min <= self.limit_mb_per_min:
            return None
        return (
            f"memory grows by {self.slope_mb_per_min:.1f} MB a minute "
            f"(about 0 is up to {self.limit_mb_per_min:.1f})"
        )


class Result(NamedTuple):
    """One record of a result topic about an image of the backlog."""

    image_id: str
    event_id: str
    place: tuple[str, int]
    key: bytes | None


@dataclass(frozen=True, slots=True)
class StageReport:
    """What became of one stage; `faults` are sentences, none when all holds."""

    results: int
    lost: int
    double: int
    out_of_order: int
    throughput: float
    faults: tuple[str, ...]


@dataclass
class Ledger:
    """Holds a stage's results against what was published.

    `numbers` is the place of each image in the order that it was published in.
    """

    numbers: Mapping[str, int]
    results: list[Result] = field(default_factory=list)

    def lost(self) -> int:
        """Images without a result."""
        return len(self.numbers.keys() - {result.image_id for result in self.results})

    def double(self) -> int:
        """Records more than one per image."""
        counts = Counter(result.image_id for result in self.results)
        return sum(count - 1 for count in counts.values())

    def out_of_order(self) -> int:
        """Records that lie behind a later one of their key; a repetition is double, not late."""
        late = 0
        newest: dict[tuple[tuple[str, int], bytes | None], int] = defaultdict(lambda: -1)
        seen: set[str] = set()
        for result in self.results:
            if result.event_id in seen:
                continue
            seen.add(result.event_id)
            line = (result.place, result.key)
            number = self.numbers[result.image_id]
            late += number < newest[line]
            newest[line] = max(newest[line], number)
        return late


@dataclass
class Patience:
    """When to give a drain up: nothing moves, or nobody can say whether it does.

    A broker that has no turn on a busy machine does not answer for a while. That is no sign
    that nothing moves, so the time does not count as such, but it ends as well.
    """

    trouble: str | None = None
    _lag: int | None = None
    _looked_at_s: float | None = None
    _still_s: float = 0.0
    _unanswered_s: float = 0.0

    def note(self, now_s: float, lag: int | None) -> None:
        """Take a look at the lag of all, None where the broker did not answer."""
        passed_s = 0.0 if self._looked_at_s is None else now_s - self._looked_at_s
        self._looked_at_s = now_s
        if lag is None:
            self._unanswered_s += passed_s
            if self._unanswered_s > UNANSWERED_LIMIT_S:
                self.trouble = f"the broker did not answer for {UNANSWERED_LIMIT_S:.0f} s"
            return
        self._unanswered_s = 0.0
        self._still_s = self._still_s + passed_s if lag == self._lag else 0.0
        self._lag = lag
        if self._still_s > STUCK_AFTER_S:
            self.trouble = f"nothing moved for {STUCK_AFTER_S:.0f} s, at {lag} records"


def draining(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return the samples from the last look before a stage began to the first one after its end."""
    most = max(sample.lag_records for sample in samples)
    first = max(place for place, one in enumerate(samples) if one.lag_records == most)
    last = max((place for place, one in enumerate(samples) if one.lag_records), default=0)
    return samples[first : last + 2]


def sizes_of(samples: Sequence[Sample]) -> list[Size]:
    """Return what samples say of memory; a process that is gone has none."""
    return [Size(one.at_s, one.rss_mb) for one in samples if one.rss_mb]


def judge_memory(sizes: Sequence[Size]) -> Memory:
    """Judge the sizes of one process during a drain.

    In the first half buffers and caches fill. In the second all that remains is growth, and an
    allocator that gives back late: the limit is the one of a chaos run (app/chaos/memory.py).
    """
    middle_s = (sizes[0].at_s + sizes[-1].at_s) / 2 if sizes else 0.0
    half = [size for size in sizes if size.at_s >= middle_s]
    peak_mb = max((size.rss_mb for size in sizes), default=0.0)
    minutes = (half[-1].at_s - half[0].at_s) / 60 if half else 0.0
    if minutes < LEAST_MINUTES:
        return Memory(None, None, round(peak_mb, 1))
    slope = statistics.linear_regression(
        [size.at_s / 60 for size in half], [size.rss_mb for size in half]
    ).slope
    limit = limit_mb_per_min(statistics.fmean(size.rss_mb for size in half), minutes)
    return Memory(round(slope, 2), round(limit, 2), round(peak_mb, 1))


def age_fault(samples: Sequence[Sample]) -> str | None:
    """Say that the age of the oldest waiting image rises, beyond what turns explain."""
    ages = [sample.oldest_age_s or 0.0 for sample in samples]
    tolerance_s = max(AGE_TOLERANCE_S, AGE_TOLERANCE_SHARE * ages[0])
    youngest = ages[0]
    for age in ages:
        if age > youngest + tolerance_s:
            return f"the oldest age rises from {youngest:.0f} to {age:.0f} s"
        youngest = min(youngest, age)
    return None if ages[-1] == 0 else f"the oldest age ends at {ages[-1]:.0f} s"


def report_stage(ledger: Ledger, samples: Sequence[Sample], *, ordered: bool) -> StageReport:
    """Judge one stage; a stage whose events settle alone promises no order."""
    drain = draining(samples)
    faults = [fault for fault in (age_fault(drain),) if fault]
    lost, double, late = ledger.lost(), ledger.double(), ledger.out_of_order()
    if lost:
        faults.append(f"{lost} images have no result")
    if double:
        faults.append(f"{double} results are double")
    if ordered and late:
        faults.append(f"{late} results are out of their key's order")
    seconds = drain[-1].at_s - drain[0].at_s
    return StageReport(
        results=len({result.image_id for result in ledger.results}),
        lost=lost,
        double=double,
        out_of_order=late,
        throughput=round(len(ledger.numbers) / seconds, 2) if seconds else 0.0,
        faults=tuple(faults),
    )


def oldest_ms(
    committed: Iterable[tuple[int, int | None]], times: Mapping[int, Sequence[int]]
) -> int | None:
    """Return when the oldest waiting record was appended, Unix milliseconds; None if none waits.

    Args:
        committed: partition and next offset to be settled, None where nothing ever was.
        times: append times of each partition's records, by offset.
    """
    waiting = [
        times[partition][offset or 0]
        for partition, offset in committed
        if (offset or 0) < len(times.get(partition, ()))
    ]
    return min(waiting, default=None)
