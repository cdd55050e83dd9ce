"""How far groups are in the log (port `DescribeProgress`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from adapters.kafka.admin import open_admin
from adapters.kafka.connection import KafkaConnection
from pipeline.reconciling import LogProgress


class KafkaProgress:
    """Asks the cluster anew each time, since it is asked only while images wait."""

    def __init__(self, connection: KafkaConnection) -> None:
        """Keep where the cluster is."""
        self._connection = connection

    async def __call__(self, groups: Mapping[str, Collection[str]]) -> LogProgress:
        """Look up positions, then what the log holds; what a group commits later counts later.

        Raises:
            DependencyDownError: the broker is away.
        """
        async with open_admin(self._connection) as admin:
            positions = {
                group: await admin.committed(group, topics) for group, topics in groups.items()
            }
            ranges = await admin.log_ranges({name for names in groups.values() for name in names})
            return LogProgress(
                await admin.cluster_id(),
                {place: held.start for place, held in ranges.items()},
                {place: held.end for place, held in ranges.items()},
                positions,
            )
