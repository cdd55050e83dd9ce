"""Taking fetched records from all partitions in equal shares, so that none ages behind another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiokafka import errors


class Shares:
    """Takes from a consumer's buffers.

    aiokafka empties the buffer of one partition, some thousand records, before it looks at the
    next. Behind a backlog of slow work the oldest records would wait for minutes meanwhile.
    """

    def __init__(self, consumer: Any) -> None:
        """Take from this consumer."""
        self._consumer = consumer
        # Until the log says otherwise: a member that starts often finds a backlog.
        self._is_behind = True
        self._first = 0
        self._next_error: errors.KafkaError | None = None

    async def take(
        self, places: Sequence[Any], max_records: int, timeout_s: float
    ) -> dict[Any, list[Any]]:
        """Return records by partition, in log order; waits up to `timeout_s` for the first."""
        error, self._next_error = self._next_error, None
        if error is not None:
            raise error
        if self._is_behind and len(places) > 1:
            shared = await self._take_shares(places, max_records)
            if shared:
                return shared
        batches: dict[Any, list[Any]] = await self._consumer.getmany(
            *places, timeout_ms=int(timeout_s * 1000), max_records=max_records
        )
        self._is_behind = sum(map(len, batches.values())) >= max_records
        return batches

    async def _take_shares(self, places: Sequence[Any], max_records: int) -> dict[Any, list[Any]]:
        share = max(1, max_records // len(places))
        # Fewer records than partitions: those that got none this time come first the next.
        first, self._first = self._first % len(places), self._first + max_records // share
        batches: dict[Any, list[Any]] = {}
        left = max_records
        for place in (*places[first:], *places[:first]):
            if left < 1:
                break
            try:
                batches |= await self._consumer.getmany(place, max_records=min(share, left))
            except errors.KafkaError as error:
                # What others gave has left the client: lost now, nothing would ever bring it again.
                if not batches:
                    raise
                self._next_error = error
                break
            left -= len(batches.get(place, ()))
        return batches
