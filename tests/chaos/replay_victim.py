"""A process that puts dead letters back and is killed on the way: `URL LOG METHOD WHEN NTH`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from base64 import b64encode
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from adapters.clock import SystemClock
from adapters.memory.broker import MemoryBroker
from adapters.sql.engine import open_database
from adapters.sql.outbox import SqlOutbox
from adapters.sql.replays import SqlReplays
from pipeline.ports import LogExtent
from producers.relay import Relay
from producers.replays import ReplayRunner
from schemas.message import Message, Position


class Killed:
    """A port around the n-th of whose calls the process is killed."""

    def __init__(self, target: Any, method: str, when: str, nth: int) -> None:
        self._target, self._method, self._when, self._left = target, method, when, nth

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name != self._method:
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left == 0 and self._when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            done = await found(*args, **kwargs)
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return call


class FileLog:
    """A log that outlives the process: one line a message, on the disk when acknowledged."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def publish(self, messages: Sequence[Message]) -> Sequence[Position]:
        with self._path.open("a") as file:
            for message in messages:
                headers = [[name, b64encode(value).decode()] for name, value in message.headers]
                value = b64encode(message.value or b"").decode()
                file.write(json.dumps({"topic": message.topic, "value": value, "headers": headers}))
                file.write("\n")
        return [Position(message.topic, 0, 0) for message in messages]


async def live(url: str, log: Path, method: str, when: str, nth: int) -> None:
    clock = SystemClock()
    async with open_database(url) as database:
        replays: Any = Killed(SqlReplays(database, lambda: None), method, when, nth)
        outbox: Any = Killed(SqlOutbox(database, source="/test"), method, when, nth)
        sink: Any = Killed(FileLog(log), method, when, nth)
        broker = MemoryBroker(clock)
        runner = ReplayRunner(replays, broker.open_reader, _no_log, clock=clock, poll_s=0.05)
        relay = Relay(outbox, sink, clock=clock, poll_s=0.05)
        async with asyncio.TaskGroup() as group:
            group.create_task(runner.run())
            group.create_task(relay.run())


async def _no_log(topics: Collection[str]) -> LogExtent:
    raise AssertionError(f"these letters keep all of their records, and {topics} were asked for")


if __name__ == "__main__":
    asyncio.run(live(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])))
