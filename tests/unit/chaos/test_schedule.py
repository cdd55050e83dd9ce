from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.chaos.schedule import (
    LLM_MODES,
    MOST_STOPPED_SHARE,
    SERVERS,
    WORKERS,
    Fault,
    Ground,
    plan,
    stopped_s,
)

MODES = {"cut", "refuse", "delay", "blackhole", "half_open", "throttle"}
seeds = st.integers(0, 2**32 - 1)
grounds = st.builds(Ground, st.sampled_from([1, 3]), st.sampled_from([SERVERS, (), ("objects",)]))


@settings(deadline=None)
@given(seeds, grounds)
def test_the_seed_alone_repeats_a_schedule(seed: int, ground: Ground) -> None:
    assert plan(seed, 3, ground) == plan(seed, 3, ground)


def test_another_seed_is_another_schedule() -> None:
    schedules = {tuple(plan(seed, 2, Ground(3))) for seed in range(20)}
    assert len(schedules) == 20


@settings(deadline=None)
@given(seeds, grounds, st.integers(1, 12))
def test_every_role_and_server_is_killed_in_every_minute(
    seed: int, ground: Ground, minutes: int
) -> None:
    kills = [fault for fault in plan(seed, minutes, ground) if fault.action == "kill"]
    for minute in range(minutes):
        hit = Counter(
            fault.target.partition("-")[0] for fault in kills if fault.at_s // 60 == minute
        )
        assert hit.keys() == {*WORKERS, *ground.servers, "broker"}


@settings(deadline=None)
@given(seeds, st.integers(1, 12))
def test_of_three_brokers_one_at_a_time_is_touched_and_gets_time_to_come_back(
    seed: int, minutes: int
) -> None:
    touched = [f for f in plan(seed, minutes, Ground(3)) if f.target.startswith("broker")]
    for before, after in pairwise(touched):
        rest_s = 20.0 if before.action == "kill" else 0.0
        assert before.ends_s + rest_s <= after.at_s


@settings(deadline=None)
@given(seeds, grounds, st.floats(0.2, 5))
def test_faults_come_in_order_and_within_the_run(seed: int, ground: Ground, minutes: float) -> None:
    faults = plan(seed, minutes, ground)
    times = [fault.at_s for fault in faults]
    assert times == sorted(times)
    assert all(0 <= at <= minutes * 60 for at in times)
    assert all(fault.lasts_s <= 15 for fault in faults)


@settings(deadline=None)
@given(seeds)
def test_what_is_a_file_is_neither_killed_nor_cut_off(seed: int) -> None:
    targets = {fault.target for fault in plan(seed, 5, Ground(1, ()))}
    assert targets.isdisjoint(SERVERS)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault(3.5, "kill", "web"), "    3.5 s  kill       web"),
        (
            Fault(61, "connection", "objects", 2.5, "blackhole"),
            "   61.0 s  connection objects blackhole for 2.5 s",
        ),
    ],
)
def test_a_fault_reads_as_one_line(fault: Fault, text: str) -> None:
    assert str(fault) == text


@pytest.mark.parametrize("seed", range(51))
@pytest.mark.parametrize("brokers", [1, 3])
def test_no_seed_leaves_a_kind_of_fault_out_for_ten_minutes(seed: int, brokers: int) -> None:
    """Nor a role that is frozen or ended, nor a mode of the language model."""
    faults = plan(seed, 10, Ground(brokers))
    connections = [fault for fault in faults if fault.action == "connection"]
    assert {fault.detail for fault in connections} == MODES
    targets = {fault.target.partition("-")[0] for fault in connections}
    assert targets == {"database", "objects", "llm", "broker"}
    assert {fault.target for fault in faults if fault.action == "freeze"} == set(WORKERS)
    assert {fault.target for fault in faults if fault.action == "end"} == set(WORKERS)
    assert {fault.detail for fault in faults if fault.action == "llm"} == set(LLM_MODES)
    killed = {fault.target for fault in faults if fault.action == "kill"}
    assert killed == {*WORKERS, *SERVERS, *Ground(brokers).nodes}


@settings(deadline=None)
@given(seeds, grounds, st.integers(1, 12))
def test_every_minute_leaves_the_cameras_time_to_send_what_they_have(
    seed: int, ground: Ground, minutes: int
) -> None:
    """Uploads stop for 60 % of a minute at most, and none is planned to stop at its end."""
    faults = plan(seed, minutes, ground)
    for minute in range(minutes):
        in_it = [fault for fault in faults if fault.at_s // 60 == minute]
        assert stopped_s(in_it) <= MOST_STOPPED_SHARE * 60
        assert all(fault.ends_s <= minute * 60 + 54.1 for fault in in_it)
        (kill,) = (f for f in in_it if f.action == "kill" and f.target == "web")
        assert kill.at_s <= minute * 60 + 44


def test_stops_that_coincide_count_once() -> None:
    faults = [
        Fault(0, "freeze", "web", 9.0),
        Fault(5, "kill", "database", 3.0),
        Fault(20, "connection", "objects", 3.0, "blackhole"),
        Fault(30, "connection", "objects", 3.0, "cut"),
        Fault(30, "kill", "broker-1", 3.0),
        Fault(30, "kill", "anomaly"),
    ]
    assert stopped_s(faults) == 10.0 + 5.0


@settings(deadline=None)
@given(seeds, grounds, st.floats(0.2, 5))
def test_two_modes_of_the_language_model_never_meet(
    seed: int, ground: Ground, minutes: float
) -> None:
    confused = [fault for fault in plan(seed, minutes, ground) if fault.action == "llm"]
    assert all(one.ends_s <= after.at_s + 0.01 for one, after in pairwise(confused))
