"""A sink with one holder at a time: what a former holder has on its way cannot land any more.

An idempotent producer sends a batch until it is answered, however late that is. Of two relays the
older one's last batch could so land after what the newer one published, and on a compacted topic
an old value would win. The cluster counts up an epoch for each `take_over` of a name, and refuses
a batch of an older epoch in every partition that has seen a newer one.

Only the epoch of Kafka's transactions is used, no transaction: a batch costs what it cost before,
and readers see it as soon as ever. An epoch is forgotten when its name was not taken over for a
week (`transactional.id.expiration.ms`), so a holder takes over again before that.
"""

from __future__ import annotations

import asyncio
from typing import Any

from adapters.kafka.connection import KafkaConnection, stop_quietly
from adapters.kafka.sink import KafkaSink
from pipeline.errors import TransientError

_CLOSE_LIMIT_S = 2.0


class FencedKafkaSink(KafkaSink):
    """A `KafkaSink` that publishes only from `take_over` until somebody else takes over."""

    def __init__(self, connection: KafkaConnection, name: str, *, timeout_s: float = 30.0) -> None:
        """`name` is the transactional id that all who may hold this sink share."""
        super().__init__(connection, timeout_s=timeout_s)
        self._name = name

    async def take_over(self) -> None:
        """Become the only one whose batches are taken; call it with the right to be that.

        Raises:
            DependencyDownError: the broker is away.
            TransientError: it refuses the name.
        """
        former, self._producer = self._producer, None
        closing = asyncio.create_task(_close(former))
        try:
            producer = await self._open()
        finally:
            await closing
        # With the epoch it becomes a plain idempotent producer; aiokafka has no public way.
        producer._txn_manager.transactional_id = None  # noqa: SLF001 - see above
        self._producer = producer

    async def _ready(self) -> Any:
        """Return the producer of the last `take_over`; a new one would put out who took over since.

        Raises:
            TransientError: there is none.
        """
        if self._producer is None:
            raise TransientError(f"{self._name} is to be taken over before anything is published")
        return self._producer

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "transactional_id": self._name}


async def _close(producer: Any) -> None:
    """Give up what is on its way: whoever publishes next begins with the same."""
    if producer is not None:
        await stop_quietly(producer, _CLOSE_LIMIT_S)
