"""Where a replay's outputs go: every message to one side topic, every object below one prefix."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from pipeline.ports import BlobStat, BlobStore, EventSink
from schemas.message import Message, Position
from schemas.reports import ReportStreamed

_PREVIEW = ("ce_type", ReportStreamed.type_name.encode())


class SideSink:
    """Publishes everything to one topic instead (port `EventSink`).

    Previews of reports are dropped: nobody watches a replay word by word.
    """

    def __init__(
        self, sink: EventSink, topic: str, on_published: Callable[[Message], None]
    ) -> None:
        """`on_published` is told of each message once it is acknowledged."""
        self._sink = sink
        self._topic = topic
        self._on_published = on_published

    async def publish(self, messages: Sequence[Message]) -> Sequence[Position]:
        """Publish in order per key; a dropped message lies nowhere, at offset -1."""
        kept = [message for message in messages if _PREVIEW not in message.headers]
        moved = [message._replace(topic=self._topic) for message in kept]
        places = iter(await self._sink.publish(moved) if moved else ())
        for message in kept:
            self._on_published(message)
        nowhere = Position(self._topic, 0, -1)
        return [nowhere if _PREVIEW in one.headers else next(places) for one in messages]


class SideStore:
    """Reads everywhere, writes and deletes below one prefix alone (port `BlobStore`)."""

    def __init__(self, store: BlobStore, prefix: str) -> None:
        """`prefix` ends with a slash."""
        self._store = store
        self._prefix = prefix

    def _aside(self, key: str) -> str:
        return key if key.startswith(self._prefix) else self._prefix + key

    async def get(
        self, key: str, *, bucket: str | None = None, max_bytes: int | None = None
    ) -> bytes:
        """Read the live object, or one of the replay by its full key."""
        return await self._store.get(key, bucket=bucket, max_bytes=max_bytes)

    async def put(self, key: str, data: bytes, *, content_type: str) -> None:
        """Write below the prefix, whatever key was meant."""
        await self._store.put(self._aside(key), data, content_type=content_type)

    async def stat(self, key: str) -> BlobStat | None:
        """Look the live object up, or one of the replay by its full key."""
        return await self._store.stat(key)

    async def delete(self, key: str) -> None:
        """Delete below the prefix, whatever key was meant."""
        await self._store.delete(self._aside(key))

    def list(self, prefix: str) -> AsyncIterator[BlobStat]:
        """Walk the live objects."""
        return self._store.list(prefix)
