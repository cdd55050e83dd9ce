"""G2, G3, G12: what fails is held in its key's order, across rebalances and SIGKILL."""

from __future__ import annotations

import pytest

from tests.member_rig import Members

pytestmark = pytest.mark.needs_kafka

# Six tries, half a second apart: time to kill and to rebalance in between.
SLOW_LADDER = (0.5, 1.0, 6)


async def test_a_held_image_keeps_its_order_across_a_kill_and_a_rebalance(group: Members) -> None:
    first = group.start("a", ladder=SLOW_LADDER)
    await group.joined(first)
    behind = ["behind-1", "behind-2", "behind-3"]
    others = [f"other-{number}" for number in range(9)]
    await group.send("flaky-4-x", *behind, station="S1")
    await group.send(*others)
    await group.settled(*others)
    assert not set(group.outcome.parts) & {"flaky-4-x", *behind}, "they wait behind the failed one"
    assert await group.lag() >= 4, "what is held is not committed"
    first.kill()
    second = group.start("a", ladder=SLOW_LADDER)
    await group.joined(second)
    third = group.start("b", ladder=SLOW_LADDER)
    await group.joined(third)
    outcome = await group.settled("flaky-4-x", *behind)
    await group.committed()
    assert outcome.letters == []
    came = [part for part in outcome.parts if part in {"flaky-4-x", *behind}]
    assert came.count("flaky-4-x") == 1
    assert came == ["flaky-4-x", *behind]
    # What was done behind the held one is done again, and has the id of the first time.
    assert len(set(outcome.outputs)) == 4 + len(others)


async def test_a_slow_image_is_done_again_after_a_kill_although_later_ones_were_done(
    group: Members,
) -> None:
    member = group.start("a", batch_size=1, ladder=SLOW_LADDER)
    await group.joined(member)
    # One partition: the failing one is the lowest offset, all the others lie behind it.
    later = [f"later-{number}" for number in range(6)]
    await group.send_to(0, "flaky-3-y", *later)
    await group.settled(*later)
    member.kill()
    again = group.start("a", ladder=SLOW_LADDER)
    outcome = await group.settled("flaky-3-y")
    await group.committed()
    assert outcome.parts.count("flaky-3-y") == 1
    assert len(set(outcome.outputs)) == 7, "repetitions have the ids of the first"
    assert again.process.poll() is None


async def test_what_never_succeeds_is_a_dead_letter_with_attempts_and_times(
    group: Members,
) -> None:
    group.start("a")
    await group.send("never-1", "after-1", station="S1")
    await group.send("bug-1", "poison-1", "fine-1")
    outcome = await group.settled("never-1", "after-1", "bug-1", "poison-1", "fine-1")
    await group.committed()
    # In = out + dead letters, each once.
    assert sorted(outcome.parts) == ["after-1", "fine-1"]
    assert outcome.buried == {
        "never-1": "retries_exhausted", "bug-1": "bug", "poison-1": "told_so",
    }  # fmt: skip
    letters = {str(one.subject.part_id): one for one in outcome.letters if one.subject}
    assert {part: one.attempts for part, one in letters.items()} == {
        "never-1": 7, "bug-1": 3, "poison-1": 1,
    }  # fmt: skip
    never = letters["never-1"]
    lasted_s = (never.last_attempt_at - never.first_attempt_at).total_seconds()
    assert lasted_s >= 0.05 * (2**6 - 1), "the whole ladder lies between first and last attempt"
    assert len(outcome.letters) == 3
