"""G5: scaling, rolling restarts and stops hand work over within the budget, none of it twice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from tests.member_rig import Member, Members, until

pytestmark = pytest.mark.needs_kafka


async def _load(group: Members, sent: list[str], over: asyncio.Event) -> None:
    """Send until told that it is enough."""
    while not over.is_set():
        parts = [f"slow-0.02-{len(sent) + step}" for step in range(5)]
        await group.send(*parts)
        sent.extend(parts)
        await asyncio.sleep(0.2)


async def _scale_and_restart(group: Members) -> Member:
    """One worker, two, both restarted in turn, one again; returns the one that is left."""
    first = group.start("a")
    await group.joined(first)
    second = group.start("b")
    await group.joined(second)
    await group.worked("b")
    assert await first.stop() == 0
    first = group.start("a")
    await group.joined(first)
    assert await second.stop() == 0
    second = group.start("b")
    await group.joined(second)
    assert await second.stop() == 0
    return first


async def test_scaling_up_and_down_and_a_rolling_restart_under_load_double_nothing(
    group: Members,
) -> None:
    sent: list[str] = []
    over = asyncio.Event()
    loading = asyncio.create_task(_load(group, sent, over))
    try:
        left = await _scale_and_restart(group)
    finally:
        over.set()
        await loading
    outcome = await group.settled(*sent)
    await group.committed()
    assert await left.stop() == 0
    assert outcome.letters == []
    assert sorted(outcome.parts) == sorted(sent), "each image came out once"
    computed = Counter(part for _, part in group.done())
    assert [part for part, count in computed.items() if count > 1] == []
    assert {name for name, _ in group.done()} == {"a", "b"}
    print(f"{len(sent)} images through 1, 2, 1 workers and four stops, none twice")


async def test_a_stuck_image_is_abandoned_after_the_budget_and_done_elsewhere(
    group: Members,
) -> None:
    stuck = group.start("a", drain_budget_s=2.0, batch_size=1)
    await group.joined(stuck)
    await group.send("stuck-1", station="S1")
    await until(lambda: ("a", "stuck-1") in group.done(), "it hangs", stuck)
    began = time.monotonic()
    assert await stuck.stop() == 0
    took_s = time.monotonic() - began
    assert 2.0 <= took_s < 15.0, "after the budget, long before the deadline"
    assert stuck.actions("drain_abandoned")
    assert await group.lag() == 1
    group.start("b")
    outcome = await group.settled("stuck-1")
    await group.committed()
    assert outcome.outputs.count(outcome.outputs[0]) == 1
    assert [name for name, part in group.done() if part == "stuck-1"] == ["a", "b"]
    print(f"left {took_s:.1f} s after SIGTERM with a budget of 2 s")
