"""Eyes on a running system: the feed, memory, and what the groups have committed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import psutil
import websockets

from adapters.kafka.admin import KafkaAdmin, open_admin
from adapters.kafka.connection import KafkaConnection
from app.chaos.book import ANSWERING
from app.chaos.facts import CommitSeen, FeedSeen
from app.chaos.memory import Sample
from notifier.positions import decode_position
from pipeline.errors import LinesideError
from schemas.message import TopicPartition
from schemas.topics import TOPICS, topics_read_by, triggers_of

T = TypeVar("T")

_RECONNECT_S = 0.5
_COMMITS_EVERY_S = 2.0
_MEMORY_EVERY_S = 1.0
_ANSWER_LIMIT_S = 8.0


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
@dataclass(slots=True)
class MemoryWatch:
    """Samples the memory of the current process of every place: of a role, or of a node.

    `works_since` says when a process of a place that was created at a time began to work, as
    Unix times; None when it does not yet. Samples are kept by role; all nodes are one, `broker`.
    """

    pids: Callable[[], Mapping[str, int]]
    works_since: Callable[[str, float], float | None]
    samples: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            for place, pid in self.pids().items():
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(pid)
                    now = time.time()
                    since = self.works_since(place, process.create_time())
                    age_s = -1.0 if since is None else now - since
                    sample = Sample(place, pid, now, age_s, process.memory_info().rss)
                    self.samples[place.partition("-")[0]].append(sample)
            await asyncio.sleep(_MEMORY_EVERY_S)


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
