from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition as ClientPartition
from aiokafka import errors

from adapters.kafka.source import GroupMember, KafkaSource
from pipeline.errors import DependencyDownError, StalledError
from pipeline.ports import Commit
from schemas.message import TopicPartition

PLACE = ClientPartition("images.uploaded", 0)


class Client:
    """The parts of aiokafka's consumer that taking partitions needs; away `failures` times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.asked = asyncio.Event()
        self._coordinator = SimpleNamespace(fetch_committed_offsets=self._fetch)

    async def _fetch(self, places: Collection[ClientPartition]) -> dict[ClientPartition, Any]:
        self.asked.set()
        if self.failures:
            self.failures -= 1
            raise errors.RequestTimedOutError
        return {place: SimpleNamespace(offset=7, metadata="") for place in places}

    async def beginning_offsets(self, places: Collection[ClientPartition]) -> dict[Any, int]:
        return dict.fromkeys(places, 0)

    def pause(self, *_: ClientPartition) -> None:
        """Nothing is paused here."""

    def assignment(self) -> set[ClientPartition]:
        return {PLACE}

    async def getmany(self, *_: Any, **__: Any) -> dict[Any, Any]:
        return {}

    async def end_offsets(self, places: Collection[ClientPartition]) -> dict[Any, int]:
        return dict.fromkeys(places, 7)


class Listener:
    """Remembers what came; `refuses` is raised when partitions are to go."""

    def __init__(self, refuses: Exception | None = None) -> None:
        self.came: list[Mapping[TopicPartition, Commit | None]] = []
        self._refuses = refuses

    async def assigned(self, partitions: Mapping[TopicPartition, Commit | None]) -> None:
        self.came.append(partitions)

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        if self._refuses:
            raise self._refuses


def source(client: Client, listener: Listener) -> KafkaSource:
    return KafkaSource(client, GroupMember("lineside.embed", ("images.uploaded",)), listener)


async def test_a_broker_that_is_away_while_partitions_come_is_waited_for() -> None:
    client, listener = Client(failures=1), Listener()
    member = source(client, listener)
    taking = asyncio.create_task(member.on_partitions_assigned([PLACE]))
    await client.asked.wait()
    await asyncio.sleep(0)
    with pytest.raises(DependencyDownError, match=r"lineside\.embed"):
        await member.poll(10, 0.0)
    await taking
    assert listener.came == [{TopicPartition(*PLACE): Commit(7)}]
    assert await member.poll(10, 0.0) == ()


async def test_a_member_that_is_closed_meanwhile_gives_up_waiting() -> None:
    client, listener = Client(failures=1_000), Listener()
    member = source(client, listener)
    taking = asyncio.create_task(member.on_partitions_assigned([PLACE]))
    await client.asked.wait()
    member.close()
    async with asyncio.timeout(5):
        await taking
    assert listener.came == []


async def test_a_handover_that_the_broker_did_not_hear_of_ends_the_member_instead_of_idling() -> (
    None
):
    member = source(Client(failures=0), Listener(DependencyDownError("kafka", "away")))
    await member.on_partitions_assigned([PLACE])
    await member.on_partitions_revoked([PLACE])
    with pytest.raises(StalledError, match="away"):
        await member.poll(10, 0.0)
