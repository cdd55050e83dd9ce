"""Records that were put back: who settles them, and how they return."""

from __future__ import annotations

from pipeline.burial import origin_of_record
from pipeline.errors import PoisonError
from pipeline.letters import former_of, is_whole, record_of
from schemas.codec import decode
from schemas.dead_letters import DeadLetter
from schemas.message import Message, Record
from schemas.replays import own_headers, replay_headers
from tests.worker_rig import DEAD, IN, Rig, ScriptedStage, message, uploaded


def replayed(letter: DeadLetter, run: str, *, stage: str | None = None) -> Message:
    """The record of a letter on its way back."""
    record = record_of(letter)
    headers = replay_headers(
        record.headers, letter_id=str(letter.event_id), run_id=run, stage=stage or letter.stage
    )
    return Message(record.topic, record.key, record.value, headers)


async def _buried(rig: Rig, stage: ScriptedStage, part: str = "bad") -> DeadLetter:
    """Let the stage bury one part."""
    stage.fault_in_load = lambda name: PoisonError("corrupt_image") if name == part else None
    rig.send_parts(part)
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    (letter,) = rig.letters()
    return letter


async def test_a_replay_is_settled_by_the_stage_that_buried_it_and_costs_the_others_nothing() -> (
    None
):
    rig, stage = Rig(partitions=1), ScriptedStage()
    letter = await _buried(rig, stage)
    stage.loads.clear()
    stage.fault_in_load = lambda _: None
    rig.broker.append(replayed(letter, "run-1", stage="llm"))
    rig.send_parts("fresh")
    rig.broker.append(replayed(letter, "run-1"))
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    assert stage.loads == ["fresh", "bad"]
    assert rig.outputs() == ["fresh", "bad"]


async def test_a_record_for_another_stage_is_passed_even_when_it_is_no_event() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    junk = Message(IN, b"S1", b"no event")
    rig.broker.append(junk)
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
        (letter,) = rig.letters()
        rig.broker.append(replayed(letter, "run-1", stage="anomaly"))
        await rig.until(rig.all_committed)
    assert len(rig.letters()) == 1


async def test_what_is_still_poison_returns_once_linked_to_its_former_letter() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    first = await _buried(rig, stage)
    # The relay was killed between publishing and marking: the record lies there twice.
    rig.broker.append(replayed(first, "run-1"))
    rig.broker.append(replayed(first, "run-1"))
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    returned = rig.letters()[1:]
    assert {letter.event_id for letter in returned} - {first.event_id} == {returned[0].event_id}
    assert former_of(returned[0]) == str(first.event_id)
    # Put back once more, it is another return of the same record.
    rig.broker.append(replayed(returned[0], "run-2"))
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    last = rig.letters()[-1]
    assert former_of(last) == str(returned[0].event_id) != str(first.event_id)
    assert last.event_id not in {first.event_id, returned[0].event_id}
    own = own_headers(record_of(first).headers)
    assert own_headers(record_of(last).headers) == own
    assert rig.broker.records(DEAD)[-1].key == b"S1"


async def test_what_is_too_large_for_a_letter_is_named_and_the_link_is_kept() -> None:
    large = Record(IN, 0, 5, b"S1", b"x" * 700_000, (("x-note", b"n" * 70_000),))
    headers = replay_headers(large.headers, letter_id="the-letter", run_id="run", stage="embed")
    origin = origin_of_record(large._replace(headers=headers))
    assert origin.omitted == ("headers", "value")
    assert [name for name, _ in origin.headers] == ["x-replay-of", "x-replay-run", "x-replay-stage"]
    small = origin_of_record(large._replace(value=message(uploaded("a")).value, headers=()))
    assert small.omitted == ()


async def test_a_letter_of_before_omissions_were_named_is_read_by_its_reason() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    letter = await _buried(rig, stage)
    bare = letter.model_copy(update={"origin": letter.origin.model_copy(update={"value": None})})
    assert is_whole(letter)
    assert not is_whole(bare)
    assert is_whole(bare.model_copy(update={"reason": "null_value"}))
    assert decode(record_of(letter)).event_id == letter.trigger_event_id
