"""Objects in a dictionary, with faults on request."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Literal

from adapters.object_keys import AllowList, check_key
from pipeline.errors import DependencyDownError, PoisonError
from pipeline.ports import BlobStat, Clock

Operation = Literal["get", "put", "stat", "delete", "list"]


class MemoryObjects:
    """`BlobStore` for tests.

    `away = True` makes every call fail as a store that is away; `fail` queues errors for one
    operation; `corrupt` swaps an object's bytes behind everybody's back.
    """

    def __init__(
        self,
        *,
        bucket: str = "memory",
        allowed_prefixes: tuple[str, ...] = (),
        clock: Clock | None = None,
    ) -> None:
        """Start empty; without a clock, objects carry the real time."""
        self.bucket = bucket
        self.away = False
        self.calls: list[tuple[Operation, str]] = []
        self._allowed = AllowList(bucket, allowed_prefixes)
        self._clock = clock
        self._objects: dict[tuple[str, str], tuple[bytes, datetime]] = {}
        self._faults: dict[Operation, deque[BaseException]] = defaultdict(deque)

    def fail(self, operation: Operation, error: BaseException, *, times: int = 1) -> None:
        """Let the next `times` calls of an operation raise, before they do anything."""
        self._faults[operation].extend([error] * times)

    def corrupt(self, key: str, data: bytes, *, bucket: str | None = None) -> None:
        """Place bytes under a key without any check, also in a foreign bucket."""
        self._objects[bucket or self.bucket, key] = (data, self._now())

    def keys(self) -> list[str]:
        """Keys of the own bucket, sorted."""
        return sorted(key for bucket, key in self._objects if bucket == self.bucket)

    async def get(
        self, key: str, *, bucket: str | None = None, max_bytes: int | None = None
    ) -> bytes:
        """Read; see `BlobStore.get`."""
        place = self._allowed.check(bucket, key)
        self._enter("get", key)
        found = self._objects.get((place, key))
        if found is None:
            raise PoisonError("object_missing", f"{key} is not in the store")
        if max_bytes is not None and len(found[0]) > max_bytes:
            raise PoisonError("object_too_large", f"{len(found[0])} bytes; limit {max_bytes}")
        return found[0]

    async def put(self, key: str, data: bytes, *, content_type: str) -> None:
        """Write."""
        del content_type
        check_key(key)
        self._enter("put", key)
        self._objects[self.bucket, key] = (bytes(data), self._now())

    async def stat(self, key: str) -> BlobStat | None:
        """Look up."""
        check_key(key)
        self._enter("stat", key)
        found = self._objects.get((self.bucket, key))
        return None if found is None else BlobStat(key, len(found[0]), found[1])

    async def delete(self, key: str) -> None:
        """Remove."""
        check_key(key)
        self._enter("delete", key)
        self._objects.pop((self.bucket, key), None)

    async def list(self, prefix: str) -> AsyncIterator[BlobStat]:
        """Walk in key order."""
        self._enter("list", prefix)
        for key in self.keys():
            found = self._objects.get((self.bucket, key))
            if key.startswith(prefix) and found is not None:
                yield BlobStat(key, len(found[0]), found[1])

    def _enter(self, operation: Operation, key: str) -> None:
        self.calls.append((operation, key))
        if self._faults[operation]:
            raise self._faults[operation].popleft()
        if self.away:
            raise DependencyDownError("objects", "the store is away")

    def _now(self) -> datetime:
        return self._clock.now() if self._clock else datetime.now(UTC)
