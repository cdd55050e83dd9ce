"""Eyes on a running system: the feed, memory, and what the groups have committed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import psutil
import websockets

from adapters.kafka.admin import KafkaAdmin, open_admin
from adapters.kafka.connection import KafkaConnection
from app.chaos.book import ANSWERING
from app.chaos.facts import CommitSeen, FeedSeen
from notifier.positions import decode_position
from pipeline.errors import LinesideError
from schemas.message import TopicPartition
from schemas.topics import TOPICS, topics_read_by, triggers_of

T = TypeVar("T")

_RECONNECT_S = 0.5
_COMMITS_EVERY_S = 2.0
_MEMORY_EVERY_S = 1.0
_ANSWER_LIMIT_S = 8.0
# A process that works first grows into its buffers; what counts is what it does afterwards.
_GROWN_UP_S = 20.0


# -- the feed ----------------------------------------------------------------------------------
@dataclass(slots=True)
class FeedClient:
    """Follows everything from the log's start and comes back by position when it is cut off."""

    url: str
    position: str = "earliest"
    seen: set[tuple[str, str]] = field(default_factory=set)
    events: int = 0
    connections: int = 0
    gaps: int = 0

    async def run(self) -> None:
        """Follow until cancelled."""
        address = self.url.replace("http", "ws", 1) + "/v1/feed"
        while True:
            with contextlib.suppress(OSError, TimeoutError, websockets.WebSocketException):
                async with websockets.connect(address, compression=None, proxy=None) as line:
                    await self._follow(line)
            await asyncio.sleep(_RECONNECT_S)

    async def _follow(self, line: websockets.ClientConnection) -> None:
        await line.send(json.dumps({"subscribe": {}, "position": self.position}))
        async for text in line:
            message = json.loads(text)
            kind = message["type"]
            if kind == "hello":
                self.connections += 1
                # The first position is none of the feed's own; later ones must be known.
                self.gaps += not message["recovered"]
                continue
            self.position = message.get("position", self.position)
            if kind == "event":
                self.events += 1
                self.seen.add((message["topic"], message["event"]["event_id"]))

    def has_reached(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Whether its position lies at these ends or behind them."""
        if self.position == "earliest":
            return False
        offsets = decode_position(self.position).offsets
        topics = topics_read_by("notifier")
        return all(
            offsets.get(place, 0) >= end for place, end in ends.items() if place.topic in topics
        )

    def facts(self, ends: Mapping[TopicPartition, int]) -> FeedSeen:
        """Return what it got; everything up to `ends` was owed."""
        return FeedSeen({}, dict(ends), frozenset(self.seen), self.gaps)


# -- the groups --------------------------------------------------------------------------------
@dataclass(slots=True)
class GroupWatch:
    """Reads positions and ends past the proxies; reconnects when a broker takes it along."""

    connection: KafkaConnection
    commits: list[CommitSeen] = field(default_factory=list)
    _admin: KafkaAdmin | None = None
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self) -> None:
        """Look at the commits of every answering stage until cancelled."""
        while True:
            await asyncio.sleep(_COMMITS_EVERY_S)
            for stage in ANSWERING:
                seen = await self.look(stage)
                if seen is not None:
                    self.commits.append(seen)

    async def look(self, stage: str) -> CommitSeen | None:
        """Return a stage's positions and then the log's ends; None while brokers are away."""

        async def read(admin: KafkaAdmin) -> CommitSeen:
            lags = await admin.lag(f"lineside.{stage}", triggers_of(stage))
            ends = await admin.log_ranges(TOPICS)
            return CommitSeen(
                stage,
                {lag.partition: lag.committed for lag in lags if lag.committed is not None},
                {place: held.end for place, held in ends.items()},
            )

        return await self._ask(read)

    async def lag(self, stage: str) -> int | None:
        """Return how many records a stage has not committed; None while brokers are away."""

        async def read(admin: KafkaAdmin) -> int:
            lags = await admin.lag(f"lineside.{stage}", triggers_of(stage))
            return sum(lag.lag_records for lag in lags)

        return await self._ask(read)

    async def ends(self) -> dict[TopicPartition, int] | None:
        """Return the log's ends; None while brokers are away."""

        async def read(admin: KafkaAdmin) -> dict[TopicPartition, int]:
            ranges = await admin.log_ranges(TOPICS)
            return {place: held.end for place, held in ranges.items()}

        return await self._ask(read)

    async def _ask(self, question: Callable[[KafkaAdmin], Awaitable[T]]) -> T | None:
        async with self._lock:
            try:
                async with asyncio.timeout(_ANSWER_LIMIT_S):
                    if self._admin is None:
                        opened = open_admin(self.connection)
                        self._admin = await self._stack.enter_async_context(opened)
                    return await question(self._admin)
            except (LinesideError, TimeoutError):
                await self.close()
                return None

    async def close(self) -> None:
        """Let the connections go; the next question opens others."""
        self._admin = None
        await self._stack.aclose()


# -- memory ------------------------------------------------------------------------------------
class Sample(NamedTuple):
    """Resident memory of one process; `age_s` counts from when it could work, -1 before."""

    pid: int
    age_s: float
    rss_bytes: int


@dataclass(slots=True)
class MemoryWatch:
    """Samples the memory of every role's current processes.

    `works_since` says when a process of a role that was created at a time began to work, as
    Unix times; None when it does not yet.
    """

    pids: Callable[[], Mapping[str, Sequence[int]]]
    works_since: Callable[[str, float], float | None]
    samples: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            for role, pids in self.pids().items():
                for pid in pids:
                    with contextlib.suppress(psutil.Error):
                        process = psutil.Process(pid)
                        since = self.works_since(role, process.create_time())
                        age_s = -1.0 if since is None else time.time() - since
                        rss_bytes = process.memory_info().rss
                        self.samples[role].append(Sample(pid, age_s, rss_bytes))
            await asyncio.sleep(_MEMORY_EVERY_S)

    def figures(self) -> dict[str, dict[str, float | None]]:
        """Per role: largest size in MB, and slope in MB a minute where one can be told."""
        return {
            role: {
                "max_mb": round(max(one.rss_bytes for one in samples) / 1e6, 1),
                "slope_mb_min": slope_mb_min(samples),
            }
            for role, samples in sorted(self.samples.items())
        }


def slope_mb_min(samples: list[Sample]) -> float | None:
    """Growth of memory within the lives of a role's processes, pooled over all of them.

    Least squares with an intercept for each life, so that a restart counts as neither growth nor
    relief. The first seconds of a life do not count. None where too little is left.
    """
    lives: dict[int, list[Sample]] = defaultdict(list)
    for one in samples:
        if one.age_s >= _GROWN_UP_S:
            lives[one.pid].append(one)
    above = below = 0.0
    for life in lives.values():
        mean_age = sum(one.age_s for one in life) / len(life)
        mean_rss = sum(one.rss_bytes for one in life) / len(life)
        above += sum((one.age_s - mean_age) * (one.rss_bytes - mean_rss) for one in life)
        below += sum((one.age_s - mean_age) ** 2 for one in life)
    return round(above / below * 60 / 1e6, 2) if below > 0 else None


@contextlib.asynccontextmanager
async def running(*services: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run watchers beside a block of code; an error of theirs ends it."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_as_task(service)) for service in services]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _as_task(service: Callable[[], Awaitable[None]]) -> None:
    await service()
