"""What a drained backlog must show: none lost or double, order, falling age, flat memory; pure."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Json = dict[str, Any]

# Partitions are read in runs of some hundred records: while one has its turn, the others age.
AGE_TOLERANCE_S = 15.0
AGE_TOLERANCE_SHARE = 0.05
# A process whose memory is flat still breathes: allocators give back late.
SLOPE_LIMIT_MB_PER_MIN = 1.0
GROWTH_LIMIT_SHARE = 0.05


class Sample(NamedTuple):
    """One look at a stage. Ages are seconds, None when nothing waits."""

    at_s: float
    lag_records: int
    oldest_age_s: float | None
    rss_mb: float


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
    slope_mb_per_min: float
    peak_mb: float
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


def draining(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return the samples from the last look before a stage began to the first one after its end."""
    most = max(sample.lag_records for sample in samples)
    first = max(place for place, one in enumerate(samples) if one.lag_records == most)
    last = max((place for place, one in enumerate(samples) if one.lag_records), default=0)
    return samples[first : last + 2]


def slope_mb_per_min(samples: Sequence[Sample]) -> float:
    """Return how fast memory grows over the last three quarters of the samples."""
    tail = samples[len(samples) // 4 :]
    if len({sample.at_s for sample in tail}) < 2:
        return 0.0
    fit = statistics.linear_regression(
        [sample.at_s / 60 for sample in tail], [sample.rss_mb for sample in tail]
    )
    return fit.slope


def memory_fault(samples: Sequence[Sample], *, cache_mb: float = 0.0) -> str | None:
    """Say that memory grows: by more than the limit a minute, and by more than breathing.

    `cache_mb` is what a cache of a known bound may take while it fills.
    """
    tail = samples[len(samples) // 4 :]
    slope = slope_mb_per_min(samples)
    if slope <= SLOPE_LIMIT_MB_PER_MIN:
        return None
    growth_mb = slope * (tail[-1].at_s - tail[0].at_s) / 60
    breathing_mb = GROWTH_LIMIT_SHARE * statistics.fmean(sample.rss_mb for sample in tail)
    if growth_mb <= breathing_mb + cache_mb:
        return None
    return f"memory grows by {slope:.1f} MB a minute"


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
    faults = [fault for fault in (memory_fault(drain), age_fault(drain)) if fault]
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
        slope_mb_per_min=round(slope_mb_per_min(drain), 2),
        peak_mb=round(max(sample.rss_mb for sample in drain), 1),
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
