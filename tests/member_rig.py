"""Worker processes on a real Kafka (tests/chaos/member.py), and what came of their input."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as ClientPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.partitioner import murmur2
from aiokafka.protocol.group import LeaveGroupRequest

from adapters.kafka.admin import KafkaAdmin, open_admin
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.reader import KafkaOpenReader
from adapters.kafka.sink import KafkaSink
from adapters.telemetry import read_exposition
from pipeline.ports import EventSource
from schemas.codec import decode
from schemas.dead_letters import DeadLetter
from schemas.message import Message, TopicPartition
from tests.worker_rig import DEAD, IN, OUT, message, uploaded

ROOT = Path(__file__).parents[1]
MEMBER = ROOT / "tests" / "chaos" / "member.py"
PARTITIONS = 3
# A tenth of what is shipped, so that a test waits seconds instead of minutes.
LADDER = (0.05, 2.0, 6)
# The shortest that a broker takes, unless told otherwise.
SESSION_S = 6.0
WATCH = {"look_every_s": 0.5, "patience_s": 3.0}


@dataclass
class Member:
    """One process."""

    name: str
    state: Path
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """As a power cut."""
        self.process.kill()
        self.process.wait()

    async def stop(self, limit_s: float = 30.0) -> int:
        """As an orderly stop; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await self.ended(limit_s)

    async def ended(self, limit_s: float = 60.0) -> int:
        """Wait for the end; returns the exit code."""
        await until(lambda: self.process.poll() is not None, f"{self.name} ends", self, limit_s)
        assert self.process.returncode is not None
        return self.process.returncode

    def log(self) -> list[dict[str, Any]]:
        """What it logged, one object a line."""
        found = []
        for line in (self.state / f"{self.name}.log").read_text("utf-8").splitlines():
            try:
                found.append(dict(json.loads(line)))
            except ValueError:  # a line of the interpreter
                found.append({"message": line})
        return found

    def actions(self, name: str) -> list[dict[str, Any]]:
        """Log lines of one action."""
        return [line for line in self.log() if line.get("action") == name]

    async def ready(self) -> list[str] | None:
        """Reasons why it is not ready, none when it is; None while it does not answer."""
        answer = await self._get("/ready")
        return None if answer is None else list(answer.json()["reasons"])

    async def metrics(self) -> dict[str, float]:
        """Its measurements: name, and labels beside the stage, to value."""
        answer = await self._get("/metrics")
        return {} if answer is None else read_exposition(answer.text)

    async def gauge(self, name: str, value: float, limit_s: float = 30.0) -> None:
        """Wait until a measurement has this value: gauges are set every few seconds."""
        deadline = time.monotonic() + limit_s
        while (found := (await self.metrics()).get(name)) != value:
            assert time.monotonic() < deadline, (name, found, self.log()[-5:])
            await asyncio.sleep(0.2)

    async def _get(self, path: str) -> httpx.Response | None:
        try:
            note = json.loads((self.state / "roles" / "embed.json").read_text("utf-8"))
            async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
                return await http.get(note["health_url"] + path)
        except (OSError, ValueError, httpx.TransportError):
            return None


@dataclass
class Outcome:
    """What lies in the topics since the test began."""

    outputs: list[tuple[str, str]] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)

    @property
    def parts(self) -> list[str]:
        """Parts that came out, in log order per partition, duplicates included."""
        return [part for part, _ in self.outputs]

    @property
    def buried(self) -> dict[str, str]:
        """Reason by part."""
        return {str(one.subject.part_id): one.reason for one in self.letters if one.subject}

    def doubled(self) -> list[str]:
        """Parts that came out more than once."""
        return [part for part, count in Counter(self.parts).items() if count > 1]


class Members:
    """Processes of one group, and an outsider's view of the log."""

    def __init__(self, servers: str, folder: Path, *, theirs: str | None = None) -> None:
        """`theirs` is where the processes find the broker, when that is another way."""
        self.servers = servers
        self._theirs = theirs or servers
        self.folder = folder
        self.connection = KafkaConnection(servers)
        self.group = f"lineside.embed-{uuid4().hex[:8]}"
        self.outcome = Outcome()
        self.started: list[Member] = []
        self.admin: KafkaAdmin
        self._sink = KafkaSink(self.connection)
        self._reader: EventSource

    def start(
        self, name: str = "a", *, watch: dict[str, Any] | None = None, **worker: Any
    ) -> Member:
        """Start a process; `worker` are settings of its worker."""
        state = self.folder / name
        state.mkdir(exist_ok=True)
        told = {
            "name": name,
            "group": self.group,
            "worker": {"ladder": LADDER} | worker,
            "watch": WATCH if watch is None else watch,
            "session_s": SESSION_S,
        }
        with (state / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(MEMBER), json.dumps(told)],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "LINESIDE_STATE_DIR": str(state),
                    "LINESIDE_KAFKA__BOOTSTRAP_SERVERS": self._theirs,
                },
            )
        self.started.append(Member(name, state, process))
        return self.started[-1]

    async def joined(self, *members: Member, limit_s: float = 60.0) -> None:
        """Wait until each is ready."""
        for member in members:
            deadline = time.monotonic() + limit_s
            while (await member.ready()) != []:
                assert member.process.poll() is None, member.log()[-5:]
                assert time.monotonic() < deadline, (await member.ready(), member.log()[-5:])
                await asyncio.sleep(0.1)

    async def send(self, *parts: str, station: str | None = None) -> None:
        """Publish an upload of each; every part has a key of its own unless a station is named."""
        await self._sink.publish(
            [message(uploaded(part, station=station or part)) for part in parts]
        )

    async def send_to(self, partition: int, *parts: str) -> None:
        """As `send`, into one partition, each with a key of its own."""
        await self._sink.publish([_message_for(partition, part) for part in parts])

    async def worked_on(self, part: str, limit_s: float = 60.0) -> None:
        """Wait until somebody began to compute this part."""
        deadline = time.monotonic() + limit_s
        while part not in {one for _, one in self.done()}:
            assert time.monotonic() < deadline, self._said()
            await self.look()

    async def stays_quiet(self, for_s: float) -> None:
        """Look on for a time in which nothing may come out or be buried."""
        before = len(self.outcome.outputs), len(self.outcome.letters)
        end = time.monotonic() + for_s
        while time.monotonic() < end:
            await self.look()
            assert (len(self.outcome.outputs), len(self.outcome.letters)) == before

    async def worked(self, name: str, limit_s: float = 60.0) -> None:
        """Wait until this member has computed something."""
        deadline = time.monotonic() + limit_s
        while name not in {who for who, _ in self.done()}:
            assert time.monotonic() < deadline, self._said()
            await self.look()

    async def member_ids(self) -> set[str]:
        """Who is in the group, by the ids that the broker gave."""
        client = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        await client.start()
        (answer,) = await client.describe_consumer_groups([self.group])
        await client.close()
        return {row[0] for row in answer.groups[0][5]}

    async def expel(self) -> None:
        """Do at once what the broker does when sessions end, to all members: they are dead."""
        assert all(member.process.poll() is not None for member in self.started)
        ids = await self.member_ids()
        client = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        await client.start()
        try:
            node = await client.find_coordinator(self.group)
            for one in ids:
                answer = await client._send_request(LeaveGroupRequest(self.group, one), node)
                assert answer.error_code == 0, answer
        finally:
            await client.close()

    async def settled(self, *parts: str, limit_s: float = 60.0) -> Outcome:
        """Wait until each came out or was buried, and what follows at once; returns all so far."""
        deadline = time.monotonic() + limit_s
        while missing := set(parts) - set(self.outcome.parts) - set(self.outcome.buried):
            assert time.monotonic() < deadline, f"{sorted(missing)} did not come\n{self._said()}"
            await self.look()
        return self.outcome

    async def look(self, wait_s: float = 0.2) -> Outcome:
        """Take note of what is new in the topics."""
        for record in await self._reader.poll(500, wait_s):
            event: Any = decode(record)
            if isinstance(event, DeadLetter):
                self.outcome.letters.append(event)
            else:
                self.outcome.outputs.append((event.subject.part_id, str(event.event_id)))
        return self.outcome

    async def ended_or_buried(self, member: Member, part: str, limit_s: float = 60.0) -> None:
        """Wait until a process died, or this part lies in a dead letter."""
        deadline = time.monotonic() + limit_s
        while member.process.poll() is None and part not in (await self.look()).buried:
            assert time.monotonic() < deadline, self._said()

    async def committed(self, limit_s: float = 30.0) -> Outcome:
        """Wait until the group has committed all that lies in the log."""
        deadline = time.monotonic() + limit_s
        while left := await self.lag():
            assert time.monotonic() < deadline, f"{left} are not committed\n{self._said()}"
            await asyncio.sleep(0.1)
        return await self.look()

    async def lag(self) -> int:
        """Records that the group has not committed, as the broker counts."""
        return sum(row.lag_records for row in await self.admin.lag(self.group, [IN]))

    def done(self, verb: str = "infer") -> list[tuple[str, str]]:
        """What stages did, in order: member and part."""
        rows = []
        for name in sorted({member.name for member in self.started}):
            path = self.folder / name / "done.jsonl"
            for line in path.read_text().splitlines() if path.exists() else ():
                one = json.loads(line)
                rows.append((one["at"], one["verb"], name, one["part"]))
        return [(name, part) for _, did, name, part in sorted(rows) if did == verb]

    def _said(self) -> str:
        lines = [f"{one.name}: {line}" for one in self.started for line in one.log()[-15:]]
        return "\n".join(lines)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Members]:
        """Look at the log from its present end on; ends every process at the end."""
        async with open_admin(self.connection) as admin:
            self.admin = admin
            await admin.apply_topics(partitions=PARTITIONS, replication_factor=1)
            ends = {
                place: rows.end for place, rows in (await admin.log_ranges([IN, OUT, DEAD])).items()
            }
            await self._stand_at_the_end(ends)
            start = {place: end for place, end in ends.items() if place.topic != IN}
            async with KafkaOpenReader(self.connection)([OUT, DEAD], start) as reader:
                self._reader = reader
                try:
                    yield self
                finally:
                    for member in self.started:
                        if member.process.poll() is None:
                            member.kill()
                    await self._sink.close()

    async def _stand_at_the_end(self, ends: dict[TopicPartition, int]) -> None:
        """Let the group begin with what this test sends, whatever others left."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.servers, group_id=self.group, enable_auto_commit=False
        )
        await consumer.start()
        places = {ClientPartition(*place): end for place, end in ends.items() if place.topic == IN}
        consumer.assign(list(places))
        await consumer.commit(places)
        await consumer.stop()


def _message_for(partition: int, part: str) -> Message:
    """An upload whose key lies in that partition."""
    for number in range(1000):
        found = message(uploaded(part, station=f"{part}.{number}"))
        if (murmur2(found.key) & 0x7FFFFFFF) % PARTITIONS == partition:
            return found
    raise AssertionError(partition)


async def until(
    check: Callable[[], object], what: str, member: Member, limit_s: float = 30.0
) -> None:
    """Wait for a condition, or fail with what the member said last."""
    deadline = time.monotonic() + limit_s
    while not check():
        if time.monotonic() > deadline:
            lines = "\n".join(map(str, member.log()[-15:]))
            raise AssertionError(f"waited {limit_s:g} s in vain: {what}\n{lines}")
        await asyncio.sleep(0.05)
