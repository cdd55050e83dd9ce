"""G6, G13: a dependency that is away is waited for; a stage that would bury all stops itself."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.member_rig import PARTITIONS, Member, Members

pytestmark = pytest.mark.needs_kafka


async def _until_away(member: Member) -> list[str]:
    deadline = time.monotonic() + 20
    while not (reasons := await member.ready() or []):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    return reasons


async def test_a_store_that_is_away_pauses_the_stage_counts_no_attempt_and_heals_by_itself(
    group: Members,
) -> None:
    member = group.start("a")
    await group.joined(member)
    # One bad object is no outage.
    await group.send("poison-1", "fine-1")
    await group.settled("poison-1", "fine-1")
    assert await member.ready() == []
    away = member.state / "away"
    away.touch()
    parts = [f"part-{number}" for number in range(30)]
    await group.send(*parts)
    reasons = await _until_away(member)
    assert len(reasons) == 1
    assert reasons[0].startswith("embed: objects is away since 20")
    metrics = await member.metrics()
    assert metrics['breaker_open{dependency="objects"}'] == 1
    await member.gauge("partitions_paused", PARTITIONS)
    # Longer than the whole ladder, which would have buried them.
    await group.stays_quiet(6.5)
    away.unlink()
    back_at = time.monotonic()
    outcome = await group.settled(*parts)
    assert time.monotonic() - back_at < 15
    await group.committed()
    await group.joined(member)
    assert outcome.buried == {"poison-1": "told_so"}
    assert outcome.doubled() == []
    metrics = await member.metrics()
    assert metrics['breaker_open{dependency="objects"}'] == 0
    assert metrics.get("events_retried_total", 0) == 0
    assert member.process.poll() is None


async def test_a_stage_that_would_bury_everything_stops_and_says_so(group: Members) -> None:
    member = group.start("a", bug_tries=1, burial_limit={"consecutive": 5})
    await group.joined(member)
    bugs = [f"bug-{number}" for number in range(12)]
    await group.send_to(0, *bugs)
    assert await member.ended() == 1
    (last,) = member.actions("service_failed")
    assert "5 events in a row could not be settled" in last["error"]
    assert "correct the stage, then start it again; nothing was lost" in last["error"]
    await group.look()
    assert len(group.outcome.letters) < 5
    assert await group.lag() == 12 - len(group.outcome.letters)


async def test_a_stage_that_buries_too_large_a_share_stops_and_says_so(group: Members) -> None:
    limit = {"consecutive": None, "ratio": 0.4, "window": 10}
    member = group.start("a", bug_tries=1, burial_limit=limit, batch_size=1)
    await group.joined(member)
    mixed = [f"{'bug' if number % 2 else 'fine'}-{number}" for number in range(30)]
    await group.send_to(0, *mixed)
    assert await member.ended() == 1
    (last,) = member.actions("service_failed")
    assert "of the last 10 events could not be settled" in last["error"]
    assert await group.lag() > 0
