"""What the log holds, for positions of the feed (port `DescribeLog`)."""

from __future__ import annotations

from collections.abc import Collection

from adapters.kafka.admin import open_admin
from adapters.kafka.connection import KafkaConnection
from pipeline.ports import LogExtent


class KafkaDescribeLog:
    """Asks the cluster anew each time, since it is asked seldom and the broker may have moved."""

    def __init__(self, connection: KafkaConnection) -> None:
        """Keep where the cluster is."""
        self._connection = connection

    async def __call__(self, topics: Collection[str]) -> LogExtent:
        """Look up cluster id, first and end offsets of all partitions of `topics`.

        Raises:
            DependencyDownError: the broker is away.
        """
        async with open_admin(self._connection) as admin:
            ranges = await admin.log_ranges(topics)
            return LogExtent(
                await admin.cluster_id(),
                {place: found.start for place, found in ranges.items()},
                {place: found.end for place, found in ranges.items()},
            )
