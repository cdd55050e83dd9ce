"""G4: work of three sessions' length loses no membership and is delivered once."""

from __future__ import annotations

import pytest

from tests.member_rig import SESSION_S, Members

pytestmark = pytest.mark.needs_kafka


async def test_inference_of_three_sessions_keeps_the_place_in_the_group(group: Members) -> None:
    member = group.start("a", batch_size=1)
    await group.joined(member)
    before = await group.member_ids()
    parts = [f"slow-{3 * SESSION_S:g}-1", "quick-1", "quick-2"]
    await group.send(*parts, station="S1")
    await group.settled(*parts, limit_s=90)
    await group.committed()
    assert await group.member_ids() == before, "the same member, never expelled"
    metrics = await member.metrics()
    assert metrics.get("drain_seconds_count", 0) == 0, "no partition was taken away"
    assert not [name for name in metrics if name.startswith("member_rebuilds_total")]
    assert [part for _, part in group.done()] == parts, "delivered once"
    assert metrics["loop_lag_seconds"] < 1.0
