"""Offsets that hold nothing to read: markers of transactions, and what was taken back.

A group commits the offset after the last record that it settled. Where the log ends with a marker,
that is for ever less than the log's end, although nothing is left to read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, errors
from aiokafka import TopicPartition as ClientPartition

from adapters.kafka.connection import KafkaConnection, as_transient, stop_quietly
from schemas.message import TopicPartition

_LOOK_LIMIT_S = 6.0
_MOST_LOOKS_KEPT = 10_000


class Gap(NamedTuple):
    """From an offset on there is nothing to read before `until`; `is_final` if a record is there.

    Otherwise `until` is where the log ended.
    """

    until: int
    is_final: bool


class KafkaGaps:
    """Finds the next offset with something to read; each place is looked at once, not each time."""

    def __init__(self, connection: KafkaConnection) -> None:
        """Keep where the cluster is; a connection is made for each look."""
        self._connection = connection
        self._known: dict[tuple[TopicPartition, int], Gap] = {}

    async def next_readable(
        self, offsets: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, int]:
        """Return for each offset the first one from it on that holds a record, else the end.

        What cannot be told in time stays as it was.

        Raises:
            DependencyDownError: the broker is away.
        """
        unknown = {
            place: offset
            for place, offset in offsets.items()
            if not self._reaches(place, offset, ends[place])
        }
        if unknown:
            found = await _look(self._connection, unknown, ends)
            if len(self._known) > _MOST_LOOKS_KEPT:
                self._known.clear()
            self._known.update({(place, unknown[place]): gap for place, gap in found.items()})
        return {
            place: gap.until if (gap := self._known.get((place, offset))) else offset
            for place, offset in offsets.items()
        }

    def _reaches(self, place: TopicPartition, offset: int, end: int) -> bool:
        gap = self._known.get((place, offset))
        return gap is not None and (gap.is_final or gap.until >= end)


async def _look(
    connection: KafkaConnection,
    offsets: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
) -> dict[TopicPartition, Gap]:
    reader = AIOKafkaConsumer(
        **connection.client_options(),
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        # The broker gives one batch of each at least, however little is asked for.
        max_partition_fetch_bytes=1,
        fetch_max_wait_ms=50,
    )
    found: dict[TopicPartition, Gap] = {}
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_LIMIT_S):
                await reader.start()
                await _read_on(reader, offsets, ends, found)
    except (errors.OffsetOutOfRangeError, errors.NoOffsetForPartitionError):
        pass  # deleted just now; the next look knows
    except (errors.KafkaError, OSError) as error:
        raise as_transient(error, "looking at the log") from error
    finally:
        await stop_quietly(reader)
    return found


async def _read_on(
    reader: Any,
    offsets: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
    found: dict[TopicPartition, Gap],
) -> None:
    reader.assign([ClientPartition(*place) for place in offsets])
    for place, offset in offsets.items():
        reader.seek(ClientPartition(*place), offset)
    while len(found) < len(offsets):
        records = await reader.getmany(timeout_ms=200)
        for place in offsets.keys() - found.keys():
            client_place = ClientPartition(*place)
            if records.get(client_place):
                found[place] = Gap(records[client_place][0].offset, is_final=True)
                reader.pause(client_place)
            else:
                position = await reader.position(client_place)
                if position >= ends[place]:
                    found[place] = Gap(position, is_final=False)
                    reader.pause(client_place)
