"""A broker in memory: partitions, groups, rebalances, and the faults that a real one has.

Semantics are Kafka's as the pipeline sees them: a log per partition, one position per group and
partition with its note, eager rebalances that wait for `revoked`, commits refused to members
that the group has moved on from. Keys go to partitions by crc32, not by Kafka's murmur2.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from adapters.memory.members import GroupMember, LogReader, MemberContext
from pipeline.errors import DependencyDownError
from pipeline.ports import AssignmentListener, Clock, Commit, EventSource, WitnessView
from schemas.message import Message, Position, Record, TopicPartition


class MemoryBroker:
    """Holds logs, groups and planned faults.

    Attributes:
        is_down: every call raises DependencyDownError while True.
        is_silent: the witness gets no answer while True.
        clock: the broker's time.
        refuse: called with every message to be published; what it returns is raised.
        watch_commit: called with every commit before it is taken.
        commits: every commit taken, in order, as (group, place, commit).
        readers: those outside any group that are open; `stall` makes one fall silent.
    """

    def __init__(self, clock: Clock, *, partitions: int = 3) -> None:
        """Start with no topics; each is made, with `partitions`, when first named."""
        self.clock = clock
        self._partitions = partitions
        self._logs: dict[str, list[list[Record]]] = {}
        self._arrived = asyncio.Event()
        self._groups: dict[str, Group] = {}
        self._keyless = 0
        self.news = 0
        self.is_down = False
        self.is_silent = False
        self.refuse: Callable[[Message], Exception | None] = lambda _: None
        self.watch_commit: Callable[[TopicPartition, Commit], None] = lambda _place, _commit: None
        self.commits: list[tuple[str, TopicPartition, Commit]] = []
        self.readers: list[LogReader] = []

    # -- what a test looks at ---------------------------------------------------------------

    def add_topic(self, topic: str, partitions: int) -> None:
        """Make a topic with its own number of partitions."""
        self._logs.setdefault(topic, [[] for _ in range(partitions)])

    def records(self, topic: str) -> list[Record]:
        """All records of a topic, partition after partition."""
        return [record for log in self.log(topic) for record in log]

    def log(self, topic: str) -> list[list[Record]]:
        """Records of a topic by partition."""
        self.add_topic(topic, self._partitions)
        return self._logs[topic]

    def committed(self, group: str) -> dict[TopicPartition, Commit]:
        """Positions of a group."""
        return dict(self.group(group).committed)

    def group(self, name: str) -> Group:
        """A group by name; it exists once it is named."""
        return self._groups.setdefault(name, Group(name, self))

    # -- ports ------------------------------------------------------------------------------

    def open_source(self, group: str, topics: Collection[str]) -> _OpenMember:
        """Return what opens members of a group (port `OpenSource`)."""
        return _OpenMember(self, group, tuple(topics))

    def open_reader(
        self, topics: Collection[str], start: Mapping[TopicPartition, int] | str = "earliest"
    ) -> AbstractAsyncContextManager[EventSource]:
        """Open a reader outside any group (port `OpenReader`)."""
        return LogReader(self, self.clock, topics, start)

    async def witness(self, member: EventSource | None) -> WitnessView:
        """Look at one of its members (port `GroupWitness`).

        Raises:
            DependencyDownError: the broker is down.
        """
        self.check_up()
        if self.is_silent:
            return WitnessView(answers=False)
        return member.view() if isinstance(member, GroupMember) else WitnessView(answers=True)

    async def publish(self, messages: Sequence[Message]) -> Sequence[Position]:
        """Append to the log (port `EventSink`); what precedes a refused message is written."""
        await asyncio.sleep(0)
        positions: list[Position] = []
        for message in messages:
            self.check_up()
            error = self.refuse(message)
            if error is not None:
                raise error
            positions.append(self.append(message))
        return positions

    def append(self, message: Message, *, partition: int | None = None) -> Position:
        """Append one message at once, as a producer that is no part of the test would."""
        logs = self.log(message.topic)
        if partition is None:
            partition = self._choose(message.key, len(logs))
        log = logs[partition]
        now_ms = int(self.clock.now().timestamp() * 1000)
        log.append(
            Record(
                message.topic, partition, len(log), message.key, message.value, message.headers,
                now_ms,
            )
        )  # fmt: skip
        self.tell_news()
        return Position(message.topic, partition, len(log) - 1)

    def _choose(self, key: bytes | None, count: int) -> int:
        if key is None:
            self._keyless += 1
            return self._keyless % count
        return zlib.crc32(key) % count

    # -- for members and readers ------------------------------------------------------------

    def check_up(self) -> None:
        """Raise DependencyDownError while the broker is down."""
        if self.is_down:
            raise DependencyDownError("kafka", "the broker is down")

    def read(self, place: TopicPartition, start: int, limit: int) -> list[Record]:
        """Records of one partition from an offset on."""
        return self.log(place.topic)[place.partition][start : start + limit]

    def places(self, topics: Collection[str]) -> list[TopicPartition]:
        """All partitions of topics, in order."""
        return [
            TopicPartition(name, index) for name in topics for index in range(len(self.log(name)))
        ]

    def end(self, place: TopicPartition) -> int:
        """Next offset to be written."""
        return len(self.log(place.topic)[place.partition])

    async def wait_for_news(self, seen: int) -> None:
        """Wait until something is appended, or a group changes, after `news` was `seen`."""
        while self.news == seen:
            self._arrived.clear()
            await self._arrived.wait()

    def tell_news(self) -> None:
        """Let all that wait look again."""
        self.news += 1
        self._arrived.set()


class Group:
    """Members of one group and its positions."""

    def __init__(self, name: str, broker: MemoryBroker) -> None:
        """Start empty."""
        self.name = name
        self.committed: dict[TopicPartition, Commit] = {}
        self._broker = broker
        self._members: list[GroupMember] = []
        self._rebalancing = asyncio.Lock()

    @property
    def members(self) -> Sequence[GroupMember]:
        """Who is in the group."""
        return tuple(self._members)

    async def join(self, member: GroupMember) -> None:
        """Add a member, and share the partitions anew."""
        self._broker.check_up()
        async with self._rebalancing:
            await self._revoke(list(self._members))
            self._members.append(member)
            await self._assign()

    async def leave(self, member: GroupMember) -> None:
        """Remove a member in order; it commits in its own `revoked` or before."""
        async with self._rebalancing:
            if member not in self._members:
                return
            await self._revoke(list(self._members))
            self._members.remove(member)
            member.expel()
            await self._assign()

    async def rebalance(self) -> None:
        """Take all partitions back and share them anew, as when a topic grows."""
        async with self._rebalancing:
            await self._revoke(list(self._members))
            await self._assign()

    def kill(self, member: GroupMember) -> None:
        """Lose a member as a SIGKILL does: nothing is told to it, its commits are refused.

        Its partitions stay orphans until the next join, leave or `rebalance`.
        """
        if member in self._members:
            self._members.remove(member)
        member.expel()

    async def _revoke(self, members: Sequence[GroupMember]) -> None:
        await asyncio.gather(*(member.hand_over() for member in members))

    async def _assign(self) -> None:
        shares: dict[GroupMember, list[TopicPartition]] = defaultdict(list)
        topics = sorted({topic for member in self._members for topic in member.topics})
        for topic in topics:
            takers = [member for member in self._members if topic in member.topics]
            for index, place in enumerate(self._broker.places([topic])):
                shares[takers[index % len(takers)]].append(place)
        for member in list(self._members):
            places = shares[member]
            await member.take({place: self.committed.get(place) for place in places})
        self._broker.tell_news()


class _OpenMember:
    """Opens members of one group."""

    def __init__(self, broker: MemoryBroker, group: str, topics: tuple[str, ...]) -> None:
        self._broker = broker
        self._group = group
        self._topics = topics

    def __call__(self, listener: AssignmentListener) -> AbstractAsyncContextManager[EventSource]:
        """Join on entering, leave on leaving."""
        broker = self._broker
        group = broker.group(self._group)
        return MemberContext(GroupMember(broker, group, self._topics, listener), group)
