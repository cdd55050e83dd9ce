"""What becomes of an event whose attempt fails, one promise per test."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta

import pytest

from pipeline.burial import BurialLimit
from pipeline.errors import DependencyDownError, PoisonError, StalledError, TransientError
from pipeline.retries import Ladder
from schemas.message import Message
from tests.worker_rig import DEAD, IN, OUT, Fault, Rig, ScriptedStage, SlotScriptedStage, uploaded


def only(part: str, error: Exception) -> Fault:
    return lambda one: error if one == part else None


async def test_a_poison_image_does_not_bury_its_batch() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    stage.fault_in_infer = only("c", PoisonError("corrupt_image", "cannot be decoded"))
    rig.send_parts("a", "b", "c", "d")
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    assert rig.outputs() == ["a", "b", "d"]
    assert rig.buried() == {"c": "corrupt_image"}


async def test_poison_found_while_loading_or_saving_is_buried_with_its_origin_whole() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    stage.fault_in_load = only("a", PoisonError("sha256_mismatch", "other bytes"))
    stage.fault_in_save = only("b", PoisonError("case_unknown"))
    event = uploaded("a")
    rig.send(event)
    rig.send_parts("b", "c")
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    first, second = rig.letters()
    record = rig.broker.records(IN)[0]
    assert (first.reason, second.reason) == ("sha256_mismatch", "case_unknown")
    assert (first.origin.topic, first.origin.partition, first.origin.offset) == (IN, 0, 0)
    assert base64.b64decode(first.origin.value or "") == record.value
    assert base64.b64decode(first.origin.key or "") == record.key
    assert {name: base64.b64decode(value) for name, value in first.origin.headers} == dict(
        record.headers
    )
    assert first.error_class == "pipeline.errors.PoisonError"
    assert first.error_text == "other bytes"
    assert first.attempts == 1
    assert first.first_attempt_at == first.last_attempt_at == first.occurred_at
    assert first.trigger_event_id == first.origin_event_id == event.event_id
    assert first.subject == event.subject
    assert rig.outputs() == ["c"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "null_value"),
        (b"", "not_json"),
        (b"\x89PNG", "not_json"),
        (b"{}", "schema"),
        (b"[" * 100_000, "not_json"),
        (b" " * 1_000_001, "oversized_value"),
    ],
    ids=["null", "empty", "pixels", "no event", "nested", "oversized"],
)
async def test_a_record_that_is_no_event_is_buried_and_the_rest_flows(
    value: bytes | None, reason: str
) -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    rig.broker.append(Message(IN, b"S1", value))
    rig.send_parts("a")
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    (letter,) = rig.letters()
    assert letter.reason == reason
    assert letter.trigger_event_id is None
    assert rig.outputs() == ["a"]


async def test_a_value_too_large_to_keep_is_named_and_left_at_its_origin() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    rig.broker.append(Message(IN, b"S1", b"{" + b" " * 700_000))
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    (letter,) = rig.letters()
    assert letter.origin.value is None
    assert "700001 bytes" in letter.error_text
    assert len(rig.broker.records(DEAD)[0].value or b"") < 10_000


async def test_a_transient_failure_is_retried_and_later_events_of_its_key_wait() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    failures = iter([TransientError("503")] * 3)
    stage.fault_in_load = lambda part: next(failures, None) if part == "a1" else None
    rig.send_parts("a1", "a2", station="A")
    rig.send_parts("b1", "b2", station="B")
    rig.send_parts("a3", station="A")
    async with rig.running(rig.worker(stage)):
        await rig.until(lambda: len(rig.outputs()) == 2)
        assert rig.outputs() == ["b1", "b2"], "another key waited"
        assert rig.committed() == 0, "a commit passed unfinished work"
        await rig.until(rig.all_committed)
    assert [part for part in rig.outputs() if part.startswith("a")] == ["a1", "a2", "a3"]
    assert not rig.letters()


async def test_other_keys_flow_past_any_number_of_events_that_wait_behind_a_failed_one() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    failures = iter([TransientError("503")] * 4)
    stage.fault_in_load = lambda part: next(failures, None) if part == "a0" else None
    rig.send_parts(*(f"a{number}" for number in range(20)), station="A")
    rig.send_parts("b", station="B")
    async with rig.running(rig.worker(stage, batch_size=4)):
        await rig.until(lambda: rig.outputs() == ["b"], limit_s=0.5)
        await rig.until(rig.all_committed)
    assert rig.outputs() == ["b", *(f"a{number}" for number in range(20))]


async def test_order_of_a_key_holds_when_saving_fails_after_others_were_computed() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    failures = iter([TransientError("disk"), None, TransientError("disk")])
    stage.fault_in_save = lambda part: next(failures, None) if part == "p2" else None
    rig.send_parts(*(f"p{number}" for number in range(12)))
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    assert rig.outputs() == [f"p{number}" for number in range(12)]


async def test_the_ladder_ends_within_a_minute_in_a_dead_letter() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    stage.fault_in_load = only("a", TransientError("still 503"))
    rig.send_parts("a", "b")
    began = rig.clock.now()
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    (letter,) = rig.letters()
    assert letter.reason == "retries_exhausted"
    assert letter.attempts == Ladder().rungs + 1 == stage.loads.count("a")
    assert timedelta(seconds=20) < letter.last_attempt_at - began < timedelta(seconds=60)
    assert rig.outputs() == ["b"]


async def test_an_exception_nobody_named_is_tried_three_times_then_buried_as_a_bug() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    stage.fault_in_infer = only("b", ZeroDivisionError("division by zero"))
    rig.send_parts("a", "b", "c")
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    (letter,) = rig.letters()
    assert (letter.reason, letter.attempts) == ("bug", 3)
    assert letter.error_class == "builtins.ZeroDivisionError"
    assert rig.outputs() == ["a", "c"]


async def test_a_bug_that_heals_costs_nothing() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    failures = iter([KeyError("x"), KeyError("x")])
    stage.fault_in_save = lambda _: next(failures, None)
    rig.send_parts("a")
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    assert rig.outputs() == ["a"]
    assert not rig.letters()


async def test_an_infer_that_returns_too_few_results_buries_only_what_it_cannot_answer() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    stage.infer = lambda items: [item for item in items if item != "b"]  # type: ignore[method-assign]  # a stage that breaks its law
    rig.send_parts("a", "b", "c")
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    assert rig.outputs() == ["a", "c"]
    assert rig.buried() == {"b": "bug"}


async def test_not_before_holds_an_event_without_counting_an_attempt() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    due = rig.clock.now() + timedelta(seconds=3)

    def fault(part: str) -> Exception | None:
        if part == "a" and rig.clock.now() < due:
            return TransientError("neighbours are not there yet", not_before=due)
        return PoisonError("done_waiting") if part == "a" else None

    stage.fault_in_load = fault
    rig.send_parts("a", station="A")
    rig.send_parts("b", station="B")
    async with rig.running(rig.worker(stage)):
        await rig.until(lambda: rig.outputs() == ["b"])
        assert rig.clock.now() < due
        await rig.until(rig.all_committed)
    (letter,) = rig.letters()
    assert letter.attempts == 1
    assert stage.loads.count("a") == 2
    assert letter.last_attempt_at >= due


async def test_an_event_that_waits_for_its_time_holds_no_slot() -> None:
    rig, stage = Rig(partitions=1), SlotScriptedStage()
    due = rig.clock.now() + timedelta(seconds=3)
    stage.fault_in_load = lambda part: (
        TransientError(not_before=due) if part != "z" and rig.clock.now() < due else None
    )
    for number in range(8):
        rig.send_parts(f"p{number}", station=f"S{number}")
    rig.send_parts("z", station="Z")
    async with rig.running(rig.worker(stage, slots=2)):
        await rig.until(lambda: rig.outputs() == ["z"])
        assert rig.clock.now() < due
        await rig.until(rig.all_committed)
    assert len(rig.outputs()) == 9


async def test_at_most_so_many_events_are_held_per_partition_then_it_pauses() -> None:
    rig, stage = Rig(partitions=2), ScriptedStage()
    stage.fault_in_load = only("a0", TransientError())
    rig.send_parts(*(f"a{number}" for number in range(60)), station="A", partition=0)
    worker = rig.worker(stage, held_records=10, poll_records=5)
    async with rig.running(worker):
        await rig.until(lambda: rig.clock.monotonic() > 2)
        rig.send_parts("b", station="B", partition=1)
        await rig.until(lambda: rig.outputs() == ["b"])
        held = sum(partition.held for partition in worker._dispatch.partitions.values())
        assert 10 <= held <= 20, "the partition was read on"
        await rig.until(rig.all_committed)
    assert rig.buried() == {"a0": "retries_exhausted"}
    assert len(rig.outputs()) == 60


@pytest.mark.parametrize("where", ["fault_in_load", "fault_in_infer", "fault_in_save"])
async def test_an_outage_buries_nothing_counts_nothing_and_heals_by_itself(where: str) -> None:
    rig, stage = Rig(partitions=2), ScriptedStage()
    ends_at = 300.0
    setattr(
        stage,
        where,
        lambda _: (
            DependencyDownError("objects", "refused") if rig.clock.monotonic() < ends_at else None
        ),
    )
    for number in range(40):
        rig.send_parts(f"p{number}", station=f"S{number % 4}")
    worker = rig.worker(stage)
    async with rig.running(worker):
        await rig.until(lambda: rig.clock.monotonic() > 200)
        assert worker.not_ready() == ["embed: objects is away since 2026-03-02 09:00:00Z"]
        tries = len(stage.loads)
        assert tries < 200, "an outage is probed, not hammered"
        await rig.until(rig.all_committed)
        assert rig.clock.monotonic() < ends_at + 10, "recovery within 10 s of the return"
        assert worker.not_ready() == []
    assert not rig.letters()
    assert sorted(rig.outputs()) == sorted(f"p{number}" for number in range(40))


async def test_a_probe_goes_in_time_although_a_held_event_is_due_before() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    transient, outage = iter([TransientError()]), iter([DependencyDownError("objects")])
    stage.fault_in_load = lambda part: next(transient if part == "a" else outage, None)
    rig.send_parts("a", station="A")
    rig.send_parts("b", station="B")
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed, limit_s=5)
    assert sorted(rig.outputs()) == ["a", "b"]


async def test_a_lasting_transient_failure_in_infer_is_its_own_and_not_its_neighbours() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    stage.fault_in_infer = only("b", TransientError("out of memory"))
    for part in "abc":
        rig.send_parts(part, station=part)
    async with rig.running(rig.worker(stage)):
        await rig.until(lambda: sorted(rig.outputs()) == ["a", "c"], limit_s=1)
        await rig.until(rig.all_committed)
    assert rig.buried() == {"b": "retries_exhausted"}


async def test_attempts_before_an_outage_are_not_added_to_by_it() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    script = [KeyError()] + [DependencyDownError("objects")] * 5 + [KeyError(), None]
    failures = iter(script)
    stage.fault_in_load = lambda _: next(failures)
    rig.send_parts("a")
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    assert rig.outputs() == ["a"]
    assert not rig.letters()


async def test_a_broker_outage_is_waited_out_without_a_stop() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    rig.send_parts("a", "b")
    worker = rig.worker(stage, publish_patience_s=30)

    async def cut(_: str) -> None:
        rig.broker.is_down = True

    async with rig.running(worker) as task:
        await rig.until(rig.all_committed)
        # It goes away while an output is on its way, for longer than it might refuse one.
        stage.before_load = cut
        rig.send_parts("c")
        await rig.until(lambda: stage.saves == ["a", "b", "c"])
        await rig.clock.advance(90)
        assert not task.done()
        assert worker.not_ready()
        stage.before_load = None
        rig.broker.is_down = False
        rig.send_parts("d")
        await rig.until(rig.all_committed, limit_s=10)
        assert worker.not_ready() == []
    assert rig.outputs() == ["a", "b", "c", "d"]


async def test_outputs_that_are_not_acknowledged_keep_their_inputs_uncommitted() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    rig.broker.refuse = lambda _: TransientError("not enough replicas")
    rig.send_parts("a", "b")
    async with rig.running(rig.worker(stage)):
        await rig.clock.advance(30)
        assert rig.committed() == 0
        rig.broker.refuse = lambda _: None
        await rig.until(rig.all_committed)
    assert rig.outputs() == ["a", "b"]


async def test_the_worker_stops_when_nothing_is_acknowledged_for_too_long() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    rig.broker.refuse = lambda _: TransientError("not enough replicas")
    rig.send_parts("a")
    task = asyncio.create_task(rig.worker(stage, publish_patience_s=60).run())
    await rig.until(task.done)
    with pytest.raises(StalledError, match="uncommitted"):
        await task
    assert rig.committed() == 0


async def test_an_output_that_the_log_refuses_is_buried_and_its_neighbours_are_not() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    big = uploaded("b").subject.image_id.encode()
    rig.broker.refuse = lambda message: (
        PoisonError("message_too_large")
        if message.topic == OUT and big in (message.value or b"")
        else None
    )
    rig.send_parts("a", "b", "c")
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    assert set(rig.outputs()) == {"a", "c"}
    assert rig.buried() == {"b": "message_too_large"}


async def test_a_dead_letter_that_cannot_be_published_stops_the_worker_and_loses_nothing() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    stage.fault_in_load = only("b", PoisonError("corrupt_image"))
    rig.broker.refuse = lambda message: (
        ValueError("no such topic") if message.topic == DEAD else None
    )
    rig.send_parts("a", "b", "c")
    task = asyncio.create_task(rig.worker(stage).run())
    await rig.until(task.done)
    with pytest.raises(StalledError, match="dead letter"):
        await task
    assert (rig.committed() or 0) <= 1
    rig.broker.refuse = lambda _: None
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    assert set(rig.outputs()) == {"a", "c"}
    assert rig.buried() == {"b": "corrupt_image"}


async def test_a_stage_that_would_bury_everything_is_stopped() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    stage.fault_in_infer = lambda _: RuntimeError("driver lost")
    for number in range(20):
        rig.send_parts(f"p{number}", station=f"S{number}")
    task = asyncio.create_task(rig.worker(stage, burial_limit=BurialLimit(consecutive=5)).run())
    await rig.until(task.done)
    with pytest.raises(StalledError, match="5 events in a row"):
        await task
    assert len(rig.letters()) < 5
    stage.fault_in_infer = lambda _: None
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    assert {*rig.outputs(), *rig.buried()} == {f"p{number}" for number in range(20)}


async def test_guilty_events_do_not_count_against_the_stage() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    stage.fault_in_load = lambda _: PoisonError("unknown_product")
    rig.send_parts(*(f"p{number}" for number in range(30)))
    async with rig.running(rig.worker(stage, burial_limit=BurialLimit(consecutive=5))):
        await rig.until(rig.all_committed)
    assert len(rig.letters()) == 30
