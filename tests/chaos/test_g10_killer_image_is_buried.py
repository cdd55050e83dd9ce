"""G10: an image that kills the process is found and buried; its neighbours are not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.member_rig import Member, Members

pytestmark = pytest.mark.needs_kafka


@pytest.fixture
async def members(kafka: str, tmp_path: Path) -> AsyncIterator[Members]:
    async with Members(kafka, tmp_path).running() as running:
        yield running


async def restart_until_buried(members: Members, member: Member, part: str) -> int:
    """Do as a supervisor does; returns how often the process was started."""
    starts = 1
    while part not in (await members.look()).buried:
        if member.process.poll() is not None:
            starts += 1
            assert starts <= 12, "it is started again and again"
            member = members.start(member.name)
    return starts


async def test_an_image_that_takes_all_memory_is_buried_as_a_crash_loop(members: Members) -> None:
    killer = "hog-1"
    neighbours = [f"part-{number}" for number in range(12)]
    await members.send(*neighbours[:6], killer, *neighbours[6:], station="S1")
    starts = await restart_until_buried(members, members.start(), killer)
    outcome = await members.settled(*neighbours)
    await members.committed()
    assert outcome.buried == {killer: "crash_loop"}
    assert set(outcome.parts) == set(neighbours)
    # Three starts to grow suspicious, two to be sure of one, one that buries it.
    assert starts <= 6
    assert len(set(outcome.outputs)) == len(neighbours), "a repetition has the id of the first"
    (letter,) = outcome.letters
    assert letter.origin.topic == "images.uploaded"
    assert "died" in letter.error_text


async def test_a_killer_is_found_also_when_each_start_is_on_another_machine(
    members: Members,
) -> None:
    killer = "exit-2"
    neighbours = [f"part-{number}" for number in range(20, 32)]
    await members.send(*neighbours[:6], killer, *neighbours[6:], station="S1")
    starts = 0
    while killer not in (await members.look()).buried:
        starts += 1
        assert starts <= 12, "it kills one machine after the other"
        # The dead one's partitions come when its session ends; its own name would get them at once.
        member = members.start(f"machine-{starts % 2}")
        await members.ended_or_buried(member, killer)
    outcome = await members.settled(*neighbours)
    await members.committed()
    assert outcome.buried == {killer: "crash_loop"}
    assert set(outcome.parts) == set(neighbours)
    deaths = {name for name, part in members.done() if part == killer}
    assert deaths == {"machine-0", "machine-1"}
