"""G19: what a worker says of itself is what the broker and the topics say of it."""

from __future__ import annotations

import time

import pytest

from tests.member_rig import Members

pytestmark = pytest.mark.needs_kafka


async def test_a_scrape_agrees_with_the_brokers_offsets_and_with_the_topics(
    group: Members,
) -> None:
    # A ladder that holds for a minute: what fails stays held while the test compares.
    member = group.start("a", ladder=(20.0, 1.0, 3), buffer_records=20, batch_size=1)
    await group.joined(member)
    sent_at = time.time()
    await group.send_to(0, "never-1", *(f"ahead-{number}" for number in range(4)))
    await group.send("poison-1", "bug-1", station="S9")
    await group.settled("poison-1", *(f"ahead-{number}" for number in range(4)))
    # The third partition is busy, and more lies there than is read.
    backlog = [f"slow-30-{number}" for number in range(60)]
    await group.send_to(2, *backlog)
    await group.worked_on("slow-30-0")
    await member.gauge("records_settled_ahead", 4)
    await member.gauge("records_held", 2)
    await member.gauge("lag_records", await group.lag())
    metrics = await member.metrics()
    now = time.time()
    assert metrics["oldest_age_seconds"] == pytest.approx(now - sent_at, abs=8)
    assert metrics["partitions_assigned"] == 3
    assert metrics["records_in_flight"] >= 1
    assert metrics["records_buffered"] >= 15
    assert metrics["partitions_paused"] >= 1
    # In = settled + dead letters + what is not settled, on both sides.
    outcome = await group.look()
    assert metrics["events_settled_total"] == len(outcome.outputs) == 4
    assert metrics['dead_letters_total{reason="told_so"}'] == 1
    assert [one.reason for one in outcome.letters] == ["told_so"]
    assert metrics["events_retried_total"] == 2
    assert metrics["batch_items_count"] >= 5
    assert metrics["commits_total"] >= 1
    assert 0 <= metrics["loop_lag_seconds"] < 5
    assert metrics["event_age_seconds_count"] >= 1


async def test_the_age_of_what_was_never_read_is_known_too(group: Members) -> None:
    """A breaker that is open from the start: nothing is buffered, and the backlog is old."""
    parts = [f"part-{number}" for number in range(40)]
    sent_at = time.time()
    await group.send(*parts)
    member = group.start("a", buffer_records=1, poll_records=1)
    (member.state / "away").touch()
    await member.gauge("lag_records", 40)
    metrics = await member.metrics()
    assert metrics["oldest_age_seconds"] == pytest.approx(time.time() - sent_at, abs=8)
    assert metrics["lag_records"] == await group.lag()
    (member.state / "away").unlink()
    await group.settled(*parts)
    await group.committed()
    await member.gauge("lag_records", 0)
    await member.gauge("oldest_age_seconds", 0)
