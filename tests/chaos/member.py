"""A worker process whose stage does to an image what its part id says: `member.py SETTINGS`.

Everything but the stage is what `lineside worker` runs. The first word of a part id decides:
`slow-2-…` computes 2 s, `flaky-3-…` fails three times in a row and heals, `never`, `poison` and
`bug` fail for good, `exit` ends the process, `hog` runs out of memory, `stuck` hangs the first
time. A file `away` in the state folder takes the object store away.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

import app.resources
import app.roles
from adapters.kafka.source import GroupMember
from adapters.kafka.witness import KafkaWitness
from app.logs import configure_logging
from app.roles import ROLES, Kit, run_role
from app.settings import read_settings
from pipeline.burial import BurialLimit
from pipeline.errors import DependencyDownError, PoisonError, TransientError
from pipeline.guard import GuardedOpenSource
from pipeline.lifecycle import Service
from pipeline.retries import Ladder
from pipeline.watchdog import WatchPolicy
from pipeline.worker_settings import WorkerSettings
from schemas.event import Event
from tests.worker_rig import embedded

_HOG_BYTES = 64 * 1024 * 1024
_ROOM_BYTES = 512 * 1024 * 1024


class ToldStage:
    """Does as part ids say, and notes what it does in `done.jsonl`."""

    name = "embed"

    def __init__(self, state: Path) -> None:
        self._state = state
        self._out = (state / "done.jsonl").open("a", buffering=1)

    def _note(self, verb: str, part: str) -> None:
        line = {"verb": verb, "part": part, "pid": os.getpid(), "at": time.time()}
        self._out.write(json.dumps(line) + "\n")

    def _tries(self, part: str) -> int:
        """How often this part was computed, by whichever process."""
        files = self._state.parent.glob("*/done.jsonl")
        lines = [line for file in files for line in file.read_text().splitlines()]
        return sum(one["verb"] == "infer" and one["part"] == part for one in map(json.loads, lines))

    async def load(self, event: Any) -> str:
        part = str(event.subject.part_id)
        if (self._state / "away").exists():
            raise DependencyDownError("objects", "refused")
        self._note("load", part)
        if part.startswith("poison"):
            raise PoisonError("told_so")
        return part

    def infer(self, parts: Sequence[str]) -> Sequence[str]:
        for part in parts:
            self._note("infer", part)
            self._compute(part)
        return list(parts)

    def _compute(self, part: str) -> None:
        kind, *rest = part.split("-")
        if kind == "slow":
            time.sleep(float(rest[0]))
        elif (kind == "flaky" and self._tries(part) <= int(rest[0])) or kind == "never":
            raise TransientError(f"{part} fails")
        elif kind == "bug":
            raise ValueError(part)
        elif kind == "exit":
            os._exit(9)
        elif kind == "hog":
            self._run_out_of_memory()
        elif kind == "stuck" and self._tries(part) == 1:
            time.sleep(3600)

    def _run_out_of_memory(self) -> None:
        kept = []
        try:
            while True:
                kept.append(bytearray(_HOG_BYTES))
        except MemoryError:
            # As native code does, which has nobody to raise to.
            os.abort()

    async def save(self, event: Any, result: str) -> Event:
        assert event.subject.part_id == result
        return embedded(event)


def _settings(told: dict[str, Any]) -> WorkerSettings:
    if "ladder" in told:
        told["ladder"] = Ladder(*told["ladder"])
    if "burial_limit" in told:
        told["burial_limit"] = BurialLimit(**told["burial_limit"])
    return WorkerSettings(**told)


def _give_a_group_of_its_own(group: str, session_s: float, watch: WatchPolicy) -> None:
    """Let tests on one broker not meet, and a watchdog be faster than the shipped one."""
    told: dict[str, Any] = {"group": group, "session_s": session_s}
    guarded: Any = partial(GuardedOpenSource, policy=watch)
    vars(app.resources)["GroupMember"] = lambda **known: GroupMember(**known | told)
    vars(app.resources)["KafkaWitness"] = lambda connection, _: KafkaWitness(
        connection, group, answer_limit_s=2.0
    )
    vars(app.roles)["GuardedOpenSource"] = guarded


def main(told: dict[str, Any]) -> int:
    """Run until told to stop."""
    # Members of one machine: each with a place of its own in the group.
    socket.gethostname = lambda: str(told["name"])
    settings = read_settings()
    configure_logging("INFO")
    # What `hog` then runs into, long before the machine does.
    room = psutil.Process().memory_info().vms + _ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    _give_a_group_of_its_own(told["group"], told["session_s"], WatchPolicy(**told["watch"]))

    @asynccontextmanager
    async def build(kit: Kit) -> AsyncIterator[Sequence[Service]]:
        stage = ToldStage(settings.state_dir)
        yield [kit.worker(stage, _settings(dict(told["worker"])))]

    ROLES["embed"] = build
    return asyncio.run(run_role("embed", settings))


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
