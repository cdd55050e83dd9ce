from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from app.chaos.memory import Sample, between_lives, judge_memory, within_lives

Size = Callable[[float, float], float]
"""(moment of the run, age) in minutes → MB."""


def lives(
    size: Size,
    *,
    count: int = 10,
    life_s: float = 60,
    scatter_mb: float = 3,
    place: str = "web",
    seed: int = 1,
) -> list[Sample]:
    """Processes one after the other, sampled each second; each is some MB off, as it happens."""
    chance = random.Random(seed)
    samples = []
    for life in range(count):
        offset_mb = chance.gauss(0, scatter_mb)
        begin_s = life * life_s
        for age_s in range(round(life_s)):
            at_s = begin_s + age_s
            mb = size(at_s / 60, age_s / 60) + offset_mb + chance.uniform(-1, 1)
            samples.append(Sample(place, 1000 + life, at_s, float(age_s), round(mb * 1e6)))
    return samples


def warms_up(_at: float, age: float) -> float:
    """As a role does: most of it comes in the first half minute, the last of it much later."""
    return 200 + 60 * (1 - math.exp(-age / 0.2)) + 10 * (1 - math.exp(-age / 0.5))


def faults(samples: list[Sample], role: str = "web") -> str:
    return "; ".join(judge_memory({role: samples})[role]["faults"])


@pytest.mark.parametrize("seed", range(20))
def test_processes_that_only_warm_up_are_flat(seed: int) -> None:
    assert faults(lives(warms_up, seed=seed)) == ""
    assert faults(lives(warms_up, count=2, life_s=400, seed=seed)) == ""


@pytest.mark.parametrize("count", [5, 6, 8, 12])
def test_lives_that_are_large_by_chance_are_seldom_taken_for_growth(count: int) -> None:
    """At most one role in twenty, where lives differ by 8 MB of 260."""
    alarms = [bool(faults(lives(warms_up, count=count, scatter_mb=8, seed=s))) for s in range(40)]
    assert sum(alarms) <= 2


@pytest.mark.parametrize("seed", range(20))
def test_what_grows_from_life_to_life_is_found_though_no_life_grows(seed: int) -> None:
    """A process that reads its state from a disk where the state grows: 5 MB a minute."""

    def loads_more(at: float, age: float) -> float:
        return warms_up(at, age) + 5 * (at - age)

    assert "memory of web grows between lives by" in faults(lives(loads_more, seed=seed))


def test_the_growth_between_lives_is_measured_at_equal_age() -> None:
    slope = between_lives(lives(lambda at, age: warms_up(at, age) + 5 * (at - age), scatter_mb=0))
    assert slope is not None
    assert slope.mb_min == pytest.approx(5, abs=0.05)
    assert slope.lives == 10


def test_a_leak_within_lives_does_not_count_as_one_between_them_nor_the_other_way_round() -> None:
    leak = lives(lambda _, age: 200 + 6 * age, count=6, life_s=300, scatter_mb=0)
    between, within = between_lives(leak), within_lives(leak)
    assert between is not None
    assert within is not None
    assert between.mb_min == pytest.approx(0, abs=0.05)
    assert within.mb_min == pytest.approx(6, abs=0.1)
    told = "memory of web grows within lives by 6.0 MB a minute (about 0 is up to 1.0)"
    assert faults(leak) == told


@pytest.mark.parametrize("seed", range(20))
def test_a_leak_in_one_long_life_is_found(seed: int) -> None:
    def leaks(at: float, age: float) -> float:
        return warms_up(at, age) + 5 * age

    assert "within lives" in faults(lives(leaks, count=1, life_s=600, seed=seed))


def test_a_broker_may_compile_for_four_minutes_and_a_role_may_not() -> None:
    def compiles(_at: float, age: float) -> float:
        return 380 + 2.2 * min(age, 4.0)

    samples = lives(compiles, count=3, life_s=200, scatter_mb=0)
    assert judge_memory({"broker": samples})["broker"]["within_lives"] is None
    assert "within lives by 2.2 MB" in judge_memory({"web": samples})["web"]["faults"][0]
    # What goes on growing is found in a broker, too.
    leak = lives(lambda _, age: 380 + 4 * age, count=2, life_s=400, scatter_mb=0)
    assert "within lives by 4.0 MB" in judge_memory({"broker": leak})["broker"]["faults"][0]


def test_lives_that_become_longer_are_no_growth_between_them() -> None:
    """An old process is larger than a young one, and old ones come late in such a run."""
    samples = []
    for life in range(8):
        long_s = 30 + 8 * life
        one_life = lives(lambda _, age: 200 + 90 * age, count=1, life_s=long_s, scatter_mb=0)
        samples += [one._replace(pid=life, at_s=one.at_s + 70 * life) for one in one_life]
    assert between_lives(samples) is not None
    assert "between lives" not in faults(samples)


def test_nodes_of_different_sizes_that_change_places_are_no_growth() -> None:
    samples = lives(lambda *_: 300, place="broker-1", count=3, life_s=60)
    later = lives(lambda *_: 400, place="broker-2", count=3, life_s=60)
    samples += [
        one._replace(at_s=one.at_s + 180, pid=one.pid + 100) for one in later
    ]  # the larger one is seen later
    assert faults(samples) == ""


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_lives_or_short_ones_say_nothing(count: int) -> None:
    """With three of them one process that is large by chance is a slope already."""
    young = lives(warms_up, count=count, life_s=60)
    assert between_lives(young) is None
    assert within_lives(young) is None
    told = judge_memory({"web": young})["web"]
    assert (told["between_lives"], told["within_lives"], told["faults"]) == (None, None, [])


def test_a_process_that_is_not_built_yet_is_no_part_of_a_life() -> None:
    samples = lives(warms_up)
    building = [one._replace(age_s=-1.0, rss_bytes=10**10) for one in samples[::7]]
    assert between_lives(samples + building) == between_lives(samples)


def test_a_large_process_may_breathe_more_than_a_small_one() -> None:
    def grows(at: float, age: float) -> float:
        return warms_up(at, age) + 1.6 * (at - age)

    small = lives(grows, scatter_mb=0)
    large = [one._replace(rss_bytes=one.rss_bytes + 1_000_000_000) for one in small]
    assert "grows between lives" in faults(small, "record")
    # A log that begins empty first fills the feed's ring.
    assert faults(small, "web") == ""
    assert faults(large) == ""
