"""G10: an image that kills the process is found and buried; its neighbours are not."""

from __future__ import annotations

import pytest

from tests.member_rig import Member, Members

pytestmark = pytest.mark.needs_kafka


async def restart_until_buried(group: Members, member: Member, part: str) -> int:
    """Do as a supervisor does; returns how often the process was started."""
    starts = 1
    while part not in (await group.look()).buried:
        if member.process.poll() is not None:
            starts += 1
            assert starts <= 12, "it is started again and again"
            member = group.start(member.name)
    return starts


async def test_an_image_that_takes_all_memory_is_buried_as_a_crash_loop(group: Members) -> None:
    killer = "hog-1"
    neighbours = [f"part-{number}" for number in range(12)]
    await group.send(*neighbours[:6], killer, *neighbours[6:], station="S1")
    starts = await restart_until_buried(group, group.start(), killer)
    outcome = await group.settled(*neighbours)
    await group.committed()
    assert outcome.buried == {killer: "crash_loop"}
    assert set(outcome.parts) == set(neighbours)
    # Three starts to grow suspicious, two to be sure of one, one that buries it.
    assert starts <= 6
    assert len(set(outcome.outputs)) == len(neighbours), "a repetition has the id of the first"
    (letter,) = outcome.letters
    assert letter.origin.topic == "images.uploaded"
    assert "died" in letter.error_text


async def test_a_killer_is_found_also_when_each_start_is_on_another_machine(
    group: Members,
) -> None:
    killer = "exit-2"
    neighbours = [f"part-{number}" for number in range(20, 32)]
    await group.send(*neighbours[:6], killer, *neighbours[6:], station="S1")
    starts = 0
    while killer not in (await group.look()).buried:
        starts += 1
        assert starts <= 12, "it kills one machine after the other"
        # The dead one's partitions come when its session ends; its own name would get them at once.
        member = group.start(f"machine-{starts % 2}")
        await group.ended_or_buried(member, killer)
        # Once the broker finds that out by itself; six seconds each time would show no more.
        if starts > 1 and member.process.poll() is not None:
            await group.expel()
    outcome = await group.settled(*neighbours)
    await group.committed()
    assert outcome.buried == {killer: "crash_loop"}
    assert set(outcome.parts) == set(neighbours)
    deaths = {name for name, part in group.done() if part == killer}
    assert deaths == {"machine-0", "machine-1"}
