"""The runner of replays: its pace, and what letters were too small to keep."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

import pytest

from adapters.memory.broker import MemoryBroker
from adapters.memory.clock import VirtualClock
from pipeline.errors import ConfigError, LinesideError, StalledError
from pipeline.letters import PutBack
from pipeline.ports import LogExtent
from producers.replays import ReplayRunner
from schemas.dead_letters import DeadLetter
from schemas.message import Message, TopicPartition
from tests.letters_rig import bury, record_of_event
from tests.story import Story

LARGE = b'{"pixels": "%s"}' % (b"x" * 700_000)


class Scripted:
    """`ReplayWork` without tables: what is due, and what was put back when."""

    def __init__(self, clock: VirtualClock, rates: dict[str, float]) -> None:
        self._clock, self._rates = clock, rates
        self.letters: dict[str, list[DeadLetter]] = {replay: [] for replay in rates}
        self.done: list[tuple[float, str, PutBack]] = []

    async def running(self) -> Mapping[str, float]:
        return {one: rate for one, rate in self._rates.items() if self.letters[one]}

    async def due(self, replay_id: str, limit: int) -> Sequence[DeadLetter]:
        return self.letters[replay_id][:limit]

    async def put_back(self, replay_id: str, letters: Sequence[PutBack]) -> int:
        del self.letters[replay_id][: len(letters)]
        now = self._clock.monotonic()
        self.done += [(now, replay_id, letter) for letter in letters]
        return len(letters)

    def replay_lease(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()


class Rig:
    """A runner on a log in memory, with a clock of its own."""

    def __init__(self, **rates: float) -> None:
        self.clock = VirtualClock()
        self.broker = MemoryBroker(self.clock, partitions=2)
        self.work = Scripted(self.clock, rates)
        self.lost = 0
        self.refusal: LinesideError | None = None
        self.runner = ReplayRunner(
            self.work, self.broker.open_reader, self.describe, clock=self.clock
        )
        self.began = self.clock.monotonic()

    async def describe(self, topics: Collection[str]) -> LogExtent:
        """What the log holds, but for what it has lost."""
        if self.refusal is not None:
            raise self.refusal
        logs = {
            TopicPartition(topic, number): len(log)
            for topic in topics
            for number, log in enumerate(self.broker.log(topic))
        }
        return LogExtent("memory", dict.fromkeys(logs, self.lost), logs)

    async def run(self) -> None:
        """Step until nothing is left, waiting as long as told."""
        while (wait_s := await self.runner.step()) is not None:
            await self.clock.advance(wait_s)

    def times(self, replay_id: str) -> list[float]:
        return [round(at - self.began, 2) for at, one, _ in self.work.done if one == replay_id]


def letters(count: int) -> list[DeadLetter]:
    return [
        bury(record_of_event(Story(f"P-{n}").uploaded, offset=n), "embed") for n in range(count)
    ]


async def _large(rig: Rig, value: bytes = LARGE) -> DeadLetter:
    """A record of the log that is too large for its letter."""
    rig.broker.append(Message("images.uploaded", b"S1", b"before"), partition=1)
    rig.broker.append(Message("images.uploaded", b"S1", value, (("x-a", b"\xff"),)), partition=1)
    record = rig.broker.log("images.uploaded")[1][1]
    letter = bury(record, "embed", reason="schema")
    assert letter.origin.omitted == ("value",)
    return letter


async def test_each_replay_keeps_its_own_pace() -> None:
    rig = Rig(slow=0.5, fast=4.0)
    rig.work.letters |= {"slow": letters(3), "fast": letters(5)}
    await rig.run()
    assert rig.times("slow") == [0.0, 2.0, 4.0]
    assert rig.times("fast") == [0.0, 0.25, 0.5, 0.75, 1.0]


async def test_a_fast_replay_puts_back_several_letters_in_one_transaction() -> None:
    rig = Rig(fast=100.0)
    rig.work.letters["fast"] = letters(50)
    await rig.run()
    assert len(rig.times("fast")) == 50
    assert set(rig.times("fast")) == {0.0, 0.2, 0.4}


async def test_what_a_letter_could_not_keep_is_read_from_its_place_in_the_log() -> None:
    rig = Rig(one=1000.0)
    rig.work.letters["one"] = [await _large(rig)]
    await rig.run()
    ((_, _, done),) = rig.work.done
    assert done.message is not None
    assert (done.message.value, done.message.key) == (LARGE, b"S1")
    assert done.message.headers[0] == ("x-a", b"\xff")
    assert done.message.headers[-1] == ("x-replay-stage", b"embed")


async def test_a_record_that_the_log_would_not_take_again_is_passed_over_by_name() -> None:
    rig = Rig(one=1000.0)
    rig.work.letters["one"] = [await _large(rig, b"x" * 1_023_950)]
    await rig.run()
    assert [done.passed_over for _, _, done in rig.work.done] == ["too_large"]
    assert rig.work.done[0][2].message is None


async def test_a_record_that_the_log_holds_no_more_is_passed_over_by_name() -> None:
    rig = Rig(one=1000.0)
    large = await _large(rig)
    elsewhere = large.origin.model_copy(update={"offset": 99})
    rig.work.letters["one"] = [large, large.model_copy(update={"origin": elsewhere})]
    rig.lost = 2
    await rig.run()
    assert [done.passed_over for _, _, done in rig.work.done] == ["record_gone", "record_gone"]


async def test_another_record_in_the_place_of_a_lost_one_is_not_taken_for_it() -> None:
    rig = Rig(one=1000.0)
    large = await _large(rig)
    stranger = large.origin.model_copy(update={"key": None})
    rig.work.letters["one"] = [large.model_copy(update={"origin": stranger})]
    await rig.run()
    assert [done.passed_over for _, _, done in rig.work.done] == ["record_gone"]


@pytest.mark.parametrize("refusal", [StalledError("not authorized"), ConfigError("refused")])
async def test_a_log_that_refuses_to_answer_makes_a_replay_wait(refusal: LinesideError) -> None:
    rig = Rig(one=1000.0)
    rig.work.letters["one"] = [await _large(rig)]
    rig.refusal = refusal
    task = asyncio.create_task(rig.runner.run())
    await rig.clock.advance(1)
    assert not task.done()
    rig.refusal = None
    await rig.clock.advance(10)
    assert [done.passed_over for _, _, done in rig.work.done] == [None]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
