"""Random histories of the whole worker: crashes, outages, poison, rebalances. Nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.memory.broker import MemoryBroker
from pipeline.errors import DependencyDownError, PoisonError, StalledError, TransientError
from pipeline.ports import Commit
from pipeline.telemetry import NullTelemetry
from pipeline.worker import Worker
from pipeline.worker_settings import WorkerSettings
from schemas.codec import decode
from schemas.message import Message, Position, TopicPartition
from tests.worker_rig import (
    DEAD,
    GROUP,
    IN,
    OUT,
    ProcessDiedError,
    Rig,
    ScriptedStage,
    SlotScriptedStage,
    uploaded,
)

BURIED_FOR = {
    "poison": "corrupt_image",
    "bug": "bug",
    "lasting": "retries_exhausted",
    "killer": "crash_loop",
}
STATIONS = "ABC"
_ERRORS = {
    "poison": PoisonError("corrupt_image"),
    "bug": KeyError("a bug"),
    "passing": TransientError("503"),
    "lasting": TransientError("503 for ever"),
}


@dataclass(frozen=True)
class Part:
    """One event of a history, and what its stage does with it."""

    fate: str  # good, slow, poison, bug, passing, lasting, killer
    where: str  # load, infer, save
    station: str


@dataclass
class Fates:
    """Lets a scripted stage act out the fates of the parts."""

    rig: Rig
    parts: dict[str, Part]
    down: bool = False
    failures: Counter[str] = field(default_factory=Counter)

    def script(self, stage: ScriptedStage) -> None:
        stage.before_load = self._load_slowly
        stage.fault_in_load = lambda name: self._fault(name, "load")
        stage.fault_in_infer = lambda name: self._fault(name, "infer")
        stage.fault_in_save = lambda name: self._fault(name, "save")

    async def _load_slowly(self, name: str) -> None:
        await self.rig.clock.sleep(0.3 if self.parts[name].fate == "slow" else 0.0)

    def _fault(self, name: str, where: str) -> Exception | None:
        part = self.parts[name]
        if self.down:
            return DependencyDownError("objects")
        if part.where != where:
            return None
        self.failures[name] += 1
        if part.fate == "killer":
            self._die()
        heals = part.fate == "passing" and self.failures[name] % 3 == 0
        return None if heals else _ERRORS.get(part.fate)

    def _die(self) -> None:
        group = self.rig.broker.group(GROUP)
        for member in group.members:
            group.kill(member)
        raise ProcessDiedError


class Sink:
    """The way to the broker of one process; dead when the process is."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self.is_dead = False

    async def publish(self, messages: Sequence[Message]) -> Sequence[Position]:
        if self.is_dead:
            raise TransientError("this process is dead")
        return await self._broker.publish(messages)


class Plant:
    """Workers under a supervisor, and the laws that hold at every moment."""

    def __init__(self, parts: dict[str, Part], *, mode: str) -> None:
        self.rig = Rig(partitions=2)
        self.fates = Fates(self.rig, parts)
        self.parts = parts
        self._has_slots = mode == "slots"
        self._processes: list[tuple[asyncio.Task[None], Sink]] = []
        self.rig.broker.watch_commit = self._check_commit
        for name, part in parts.items():
            self.rig.send(uploaded(name, station=part.station))

    def _check_commit(self, place: TopicPartition, commit: Commit) -> None:
        broker = self.rig.broker
        published = [decode(one) for topic in (OUT, DEAD) for one in broker.records(topic)]
        settled = {getattr(event, "trigger_event_id", None) for event in published}
        log = self.rig.broker.log(place.topic)[place.partition]
        for record in log[: commit.offset]:
            assert decode(record).event_id in settled, "a commit passed unfinished work"

    def start(self) -> None:
        stage: Any = SlotScriptedStage() if self._has_slots else ScriptedStage()
        self.fates.script(stage)
        sink = Sink(self.rig.broker)
        worker = Worker(
            stage,
            self.rig.broker.open_source(GROUP, (IN,)),
            sink,
            self.rig.clock,
            NullTelemetry(),
            WorkerSettings(
                compute="inline", batch_size=3, slots=2, load_concurrency=2, buffer_records=5,
                poll_records=3, held_records=4, drain_budget_s=2.0, burial_limit=None,
            ),
        )  # fmt: skip
        self._processes.append((asyncio.create_task(worker.run()), sink))

    async def supervise(self) -> None:
        """Start anew what has ended, as `lineside up` does."""
        for process in [one for one in self._processes if one[0].done()]:
            self._processes.remove(process)
            with contextlib.suppress(ProcessDiedError, StalledError, DependencyDownError):
                await process[0]
        if not self._processes:
            self.start()

    async def act(self, action: str) -> None:
        await getattr(self, f"_{action}")()

    async def _crash(self) -> None:
        group = self.rig.broker.group(GROUP)
        for member in group.members:
            group.kill(member)
        for _, sink in self._processes:
            sink.is_dead = True
        await self._stop()

    async def _stop(self) -> None:
        for task, _ in self._processes:
            task.cancel()
        await self._run_until_all_ended()

    async def _rebalance(self) -> None:
        turn = asyncio.create_task(self.rig.broker.group(GROUP).rebalance())
        await self.rig.until(turn.done)

    async def _join(self) -> None:
        self.start()

    async def _objects(self) -> None:
        self.fates.down = not self.fates.down

    async def _broker(self) -> None:
        self.rig.broker.is_down = not self.rig.broker.is_down

    async def _run_until_all_ended(self) -> None:
        await self.rig.until(lambda: all(task.done() for task, _ in self._processes))
        # One that was started while the broker was down ended by itself.
        ends = (asyncio.CancelledError, ProcessDiedError, StalledError, DependencyDownError)
        for task, _ in self._processes:
            with contextlib.suppress(*ends):
                await task
        self._processes.clear()

    async def run(self, history: Sequence[tuple[str, float]]) -> None:
        self.start()
        for action, seconds in history:
            await self.rig.clock.advance(seconds)
            await self.act(action)
            await self.supervise()
        self.fates.down = self.rig.broker.is_down = False
        for _ in range(30):
            await self.rig.until(
                lambda: self.rig.all_committed() or any(task.done() for task, _ in self._processes)
            )
            if self.rig.all_committed():
                break
            await self.supervise()
        await self.act("stop")
        self.check()

    def check(self) -> None:
        rig = self.rig
        assert rig.all_committed(), "it never came through"
        guilty = {name: BURIED_FOR.get(part.fate) for name, part in self.parts.items()}
        assert rig.buried() == {name: why for name, why in guilty.items() if why}
        assert set(rig.outputs()) == {name for name, why in guilty.items() if not why}
        for topic in (OUT, DEAD):
            ids = defaultdict(set)
            for record in rig.broker.records(topic):
                event: Any = decode(record)
                ids[event.trigger_event_id].add(event.event_id)
            assert all(len(found) == 1 for found in ids.values()), "duplicates differ in their id"
        if not self._has_slots:
            first = list(dict.fromkeys(rig.outputs()))
            for station in STATIONS:
                of_key = [name for name in self.parts if self.parts[name].station == station]
                expected = [name for name in of_key if name in first]
                assert [name for name in first if name in of_key] == expected, "order of a key"


def parts_of(fates: Sequence[str]) -> st.SearchStrategy[dict[str, Part]]:
    part = st.builds(
        Part,
        st.sampled_from(fates),
        st.sampled_from(["load", "infer", "save"]),
        st.sampled_from(STATIONS),
    )
    return st.lists(part, min_size=1, max_size=12).map(
        lambda parts: {f"p{number:02d}": one for number, one in enumerate(parts)}
    )


def history_of(actions: Sequence[str], most: int) -> st.SearchStrategy[list[tuple[str, float]]]:
    seconds = st.sampled_from([0.0, 0.01, 0.06, 0.3, 1.0, 7.0])
    return st.lists(st.tuples(st.sampled_from(actions), seconds), max_size=most)


MODES = st.sampled_from(["batches", "slots"])
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
FATES = ("good", "good", "good", "slow", "poison", "bug", "passing", "lasting")


@QUICK
@given(
    parts_of(FATES),
    history_of(["stop", "rebalance", "join", "objects", "broker"], 6),
    MODES,
)
def test_outages_and_rebalances_lose_nothing_and_bury_only_the_guilty(
    parts: dict[str, Part], history: list[tuple[str, float]], mode: str
) -> None:
    asyncio.run(Plant(parts, mode=mode).run(history))


@QUICK
@given(
    parts_of(FATES),
    # Three at most: a fourth death on the same record is what the journal buries for.
    history_of(["crash"], 3),
    history_of(["rebalance", "objects", "broker"], 3),
    st.randoms(use_true_random=False),
    MODES,
)
def test_crashes_at_any_moment_lose_nothing(
    parts: dict[str, Part],
    crashes: list[tuple[str, float]],
    others: list[tuple[str, float]],
    order: Any,
    mode: str,
) -> None:
    history = crashes + others
    order.shuffle(history)
    asyncio.run(Plant(parts, mode=mode).run(history))


@settings(parent=QUICK, max_examples=25)
@given(parts_of(("good", "good", "slow", "poison", "passing", "killer")), MODES)
def test_killers_are_found_and_nobody_else_is_blamed(parts: dict[str, Part], mode: str) -> None:
    asyncio.run(Plant(parts, mode=mode).run([]))


@pytest.mark.parametrize("mode", ["batches", "slots"])
def test_one_of_each_fate_in_a_row(mode: str) -> None:
    parts = {
        f"p{number:02d}": Part(fate, where, STATIONS[number % 3])
        for number, (fate, where) in enumerate(
            (fate, where)
            for fate in ("good", *BURIED_FOR, "slow", "passing")
            for where in ("load", "infer", "save")
        )
    }
    asyncio.run(Plant(parts, mode=mode).run([("rebalance", 0.3), ("objects", 1.0)]))
