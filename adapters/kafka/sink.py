"""Publishing to Kafka: idempotent, all replicas, pipelined, and never waiting for ever."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer, errors
from aiokafka.partitioner import murmur2

from adapters.kafka.connection import (
    KafkaConnection,
    as_transient,
    explain_refusal,
    is_away,
    stop_quietly,
)
from pipeline.errors import DependencyDownError, PoisonError, TransientError
from schemas.message import Message, Position

logger = logging.getLogger(__name__)

_OPEN_LIMIT_S = 15.0
_ANSWER_LIMIT_MS = 10_000
# Large batches and no linger: a backlog fills them by itself (streaming.md section 10).
_BATCH_BYTES = 256 * 1024
# Below the broker's 1,048,588 by the room that headers and framing take.
_LARGEST_BYTES = 1_000_000 + 24_000
# From this many messages of one partition on, building the batch ourselves is cheaper.
_BATCH_FROM = 4
_KNOWN_KEYS = 50_000
_POSITIVE = 0x7FFFFFFF


class Run(NamedTuple):
    """Messages, by index, that lie next to each other in one partition once `written` is done."""

    place: tuple[str, int]
    indexes: Sequence[int]
    written: asyncio.Future[Any]


class KafkaSink:
    """An idempotent producer that replaces itself when its client died (port `EventSink`)."""

    def __init__(self, connection: KafkaConnection, *, timeout_s: float = 30.0) -> None:
        """`timeout_s` bounds one `publish`; aiokafka alone waits while the broker is away."""
        self._connection = connection
        self._timeout_s = timeout_s
        self._producer: Any = None
        self._opening = asyncio.Lock()
        self._partition_of: dict[tuple[str, bytes | None, int], int] = {}
        self._keyless = 0

    async def publish(self, messages: Sequence[Message]) -> Sequence[Position]:
        """Publish in order per key, and wait for the acknowledgement of all in-sync replicas.

        Raises:
            TransientError: at least one is not known to be written; publish all again.
            DependencyDownError: the broker is away.
            PoisonError: `message_too_large`; nothing was published.
        """
        if not messages:
            return ()
        for message in messages:
            _check_size(message)
        producer = await self._ready()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._publish(producer, messages)
        except TimeoutError as error:
            # The client keeps the batch and may still write it: the retry is a duplicate then,
            # with the same event_id, and after it in the log.
            raise as_transient(error, "publish") from None
        except (errors.KafkaError, OSError) as error:
            if not is_away(error):
                # A refused batch leaves a gap in the sequence numbers: every later one fails.
                await self._discard(producer, error)
            raise as_transient(error, "publish") from error

    async def close(self) -> None:
        """Write what is on its way, then disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_quietly(producer)

    async def _ready(self) -> Any:
        if self._producer is not None:
            return self._producer
        async with self._opening:
            if self._producer is None:
                self._producer = await self._open()
            return self._producer

    async def _open(self) -> Any:
        producer = AIOKafkaProducer(**self._options())
        try:
            async with asyncio.timeout(_OPEN_LIMIT_S):
                await producer.start()
        except errors.TransactionalIdAuthorizationFailed as error:
            await stop_quietly(producer)
            raise TransientError(
                f"Kafka refuses the transactional id {error}; "
                "allow this user to describe and write it"
            ) from None
        except (errors.KafkaError, TimeoutError, OSError) as error:
            await stop_quietly(producer)
            reason = await explain_refusal(self._connection, error)
            if isinstance(reason, DependencyDownError):
                raise reason from None
            raise TransientError(str(reason)) from None
        return producer

    def _options(self) -> dict[str, Any]:
        return {
            **self._connection.client_options(),
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": 0,
            "max_batch_size": _BATCH_BYTES,
            "compression_type": "lz4",
            # A dead connection that nobody closed is given up after this, not after 40 s; what was
            # on its way is sent again under its sequence number.
            "request_timeout_ms": _ANSWER_LIMIT_MS,
            "metadata_max_age_ms": 30_000,
        }

    async def _discard(self, producer: Any, error: Exception) -> None:
        """Drop a producer that cannot send any more (aiokafka issues 907 and 1017)."""
        logger.warning(
            "producer is replaced", extra={"action": "producer_replaced", "error": repr(error)}
        )
        if self._producer is producer:
            self._producer = None
            await stop_quietly(producer, 2.0)

    async def _publish(self, producer: Any, messages: Sequence[Message]) -> list[Position]:
        runs: list[Run] = []
        try:
            for place, indexes in (await self._by_partition(producer, messages)).items():
                send = _send_each if len(indexes) < _BATCH_FROM else _send_batches
                await send(producer, messages, (place, indexes), runs)
            # Waiting this way leaves the futures alone when this call is cancelled.
            await asyncio.wait([run.written for run in runs])
        except BaseException:
            for run in runs:
                run.written.add_done_callback(_look_at)
            raise
        positions: list[Position] = [Position("", 0, 0)] * len(messages)
        first_error = next(filter(None, [run.written.exception() for run in runs]), None)
        if first_error is not None:
            raise first_error
        for run in runs:
            base = run.written.result().offset
            for step, index in enumerate(run.indexes):
                positions[index] = Position(*run.place, base + step)
        return positions

    async def _by_partition(
        self, producer: Any, messages: Sequence[Message]
    ) -> dict[tuple[str, int], list[int]]:
        """Indexes of the messages by where they go, each in the given order."""
        counts = {
            topic: len(await producer.partitions_for(topic))
            for topic in {message.topic for message in messages}
        }
        groups: dict[tuple[str, int], list[int]] = {}
        for index, message in enumerate(messages):
            partition = self._choose(message.topic, message.key, counts[message.topic])
            groups.setdefault((message.topic, partition), []).append(index)
        return groups

    def _choose(self, topic: str, key: bytes | None, count: int) -> int:
        if key is None:
            self._keyless += 1
            return self._keyless % count
        known = self._partition_of.get((topic, key, count))
        if known is None:
            if len(self._partition_of) >= _KNOWN_KEYS:
                self._partition_of.clear()
            known = (murmur2(key) & _POSITIVE) % count
            self._partition_of[topic, key, count] = known
        return known


async def _send_each(
    producer: Any,
    messages: Sequence[Message],
    group: tuple[tuple[str, int], Sequence[int]],
    runs: list[Run],
) -> None:
    """Hand over few messages of one partition; the client joins them with those of others."""
    place, indexes = group
    topic, partition = place
    for index in indexes:
        message = messages[index]
        # `send` wants a list of headers, where records carry a tuple.
        written = await producer.send(
            topic, message.value, message.key, partition, headers=list(message.headers)
        )
        runs.append(Run(place, (index,), written))


async def _send_batches(
    producer: Any,
    messages: Sequence[Message],
    group: tuple[tuple[str, int], Sequence[int]],
    runs: list[Run],
) -> None:
    """Hand over many messages of one partition as full batches, in order."""
    place, indexes = group
    topic, partition = place
    left = deque(indexes)
    while left:
        batch = producer.create_batch()
        run: list[int] = []
        while left and _append(batch, messages[left[0]]):
            run.append(left.popleft())
        batch.close()
        written = await producer.send_batch(batch, topic, partition=partition)
        runs.append(Run(place, run, written))


def _append(batch: Any, message: Message) -> bool:
    """Whether the message fitted in; the first one of a batch always does."""
    added = batch.append(
        timestamp=None, key=message.key, value=message.value, headers=list(message.headers)
    )
    return added is not None


def _check_size(message: Message) -> None:
    """Refuse what the broker would refuse, before it costs the producer its sequence.

    Raises:
        PoisonError: `message_too_large`.
    """
    size = len(message.value or b"") + len(message.key or b"")
    if size > _LARGEST_BYTES:
        limit = f"the limit is {_LARGEST_BYTES}"
        raise PoisonError("message_too_large", f"{size} bytes for {message.topic}; {limit}")


def _look_at(future: asyncio.Future[Any]) -> None:
    """Take note of an outcome that nobody waits for any more."""
    if not future.cancelled():
        future.exception()
