"""How far groups are in the log (port `DescribeProgress`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from adapters.kafka.admin import LogRange, open_admin
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.gaps import KafkaGaps
from pipeline.reconciling import LogProgress
from schemas.message import TopicPartition

_Positions = Mapping[str, Mapping[TopicPartition, int]]


class KafkaProgress:
    """Asks the cluster anew each time, since it is asked only while images wait."""

    def __init__(self, connection: KafkaConnection) -> None:
        """Keep where the cluster is."""
        self._connection = connection
        self._gaps = KafkaGaps(connection)
        self._former: _Positions = {}

    async def __call__(self, groups: Mapping[str, Collection[str]]) -> LogProgress:
        """Look up positions, then what the log holds; what a group commits later counts later.

        A group that did not move since the last time stands where the next record is: behind it
        there may be nothing but the marks of transactions.

        Raises:
            DependencyDownError: the broker is away.
        """
        async with open_admin(self._connection) as admin:
            positions = {
                group: await admin.committed(group, topics) for group, topics in groups.items()
            }
            ranges = await admin.log_ranges({name for names in groups.values() for name in names})
            cluster_id = await admin.cluster_id()
        standing = _standing(positions, self._former, ranges)
        self._former = positions
        return LogProgress(
            cluster_id,
            {place: held.start for place, held in ranges.items()},
            {place: held.end for place, held in ranges.items()},
            await self._past_gaps(positions, standing, ranges),
        )

    async def _past_gaps(
        self,
        positions: _Positions,
        standing: _Positions,
        ranges: Mapping[TopicPartition, LogRange],
    ) -> _Positions:
        ends = {place: held.end for place, held in ranges.items()}
        return {
            group: {**known, **await self._gaps.next_readable(standing[group], ends)}
            for group, known in positions.items()
        }


def _standing(
    positions: _Positions, former: _Positions, ranges: Mapping[TopicPartition, LogRange]
) -> _Positions:
    """Positions before the end that are what they were: who works through a backlog moves."""
    return {
        group: {
            place: offset
            for place, offset in known.items()
            if place in ranges
            and ranges[place].start <= offset < ranges[place].end
            and former.get(group, {}).get(place) == offset
        }
        for group, known in positions.items()
    }
