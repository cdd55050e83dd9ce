"""Objects in any S3 server, by the minio SDK (which blocks, so it runs in threads)."""

from __future__ import annotations

import asyncio
import io
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import urllib3
from minio import Minio
from minio.datatypes import Object
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from adapters.object_keys import AllowList, check_key
from pipeline.errors import DependencyDownError, PoisonError, StorageFullError
from pipeline.ports import BlobStat

_Value = TypeVar("_Value")
_MISSING = frozenset({"NoSuchKey", "NoSuchObject", "ResourceNotFound"})
_FULL = frozenset({"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage"})
_THREADS = 16
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class S3Address:
    """Where the server is: `endpoint` as host:port, `secure` for https."""

    endpoint: str
    bucket: str
    access_key: str | None = None
    secret_key: str | None = None
    secure: bool = False
    region: str = "us-east-1"


class S3Objects:
    """`BlobStore` on one bucket of an S3 server; makes the bucket when it is missing."""

    def __init__(
        self,
        address: S3Address,
        *,
        allowed_prefixes: tuple[str, ...] = (),
        timeout_s: float = 10.0,
    ) -> None:
        """Only assign; the first call connects."""
        self.bucket = address.bucket
        self._allowed = AllowList(address.bucket, allowed_prefixes)
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=3.0, read=timeout_s),
            maxsize=_THREADS,
            # Whoever calls decides when to try again: the worker holds, the upload answers 503.
            retries=urllib3.Retry(total=1, backoff_factor=0.1, status_forcelist=()),
        )
        self._client = Minio(
            endpoint=address.endpoint,
            access_key=address.access_key,
            secret_key=address.secret_key,
            secure=address.secure,
            region=address.region,
            http_client=self._pool,
        )
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="objects")

    def close(self) -> None:
        """Wait for calls under way, then let threads and connections go."""
        self._threads.shutdown()
        self._pool.clear()

    async def get(
        self, key: str, *, bucket: str | None = None, max_bytes: int | None = None
    ) -> bytes:
        """Read an object; see `BlobStore.get`."""
        place = self._allowed.check(bucket, key)
        return await self._call(lambda: self._read(place, key, max_bytes), place)

    async def put(self, key: str, data: bytes, *, content_type: str) -> None:
        """Write an object; an S3 server answers once it is durable."""
        check_key(key)

        def write() -> None:
            self._client.put_object(
                self.bucket, key, io.BytesIO(data), len(data), content_type=content_type
            )

        await self._call(lambda: self._with_bucket(write), self.bucket)

    async def stat(self, key: str) -> BlobStat | None:
        """Look an object up."""
        check_key(key)

        def look() -> BlobStat | None:
            try:
                found = self._client.stat_object(self.bucket, key)
            except S3Error as error:
                if error.code in _MISSING:
                    return None
                raise
            assert found.size is not None
            assert found.last_modified is not None
            return BlobStat(key, found.size, found.last_modified)

        return await self._call(look, self.bucket)

    async def delete(self, key: str) -> None:
        """Remove an object."""
        check_key(key)
        await self._call(lambda: self._client.remove_object(self.bucket, key), self.bucket)

    async def list(self, prefix: str) -> AsyncIterator[BlobStat]:
        """Walk objects in key order, a page of a thousand per thread hop."""

        def begin() -> tuple[Iterator[Object], tuple[Object, ...]]:
            found = self._client.list_objects(self.bucket, prefix=prefix, recursive=True)
            return found, tuple(itertools.islice(found, _PAGE))

        # A new store is asked what it holds before anything was put.
        found, page = await self._call(lambda: self._with_bucket(begin), self.bucket)
        while page:
            for item in page:
                if item.object_name and item.size is not None and item.last_modified:
                    yield BlobStat(item.object_name, item.size, item.last_modified)
            page = await self._call(lambda: tuple(itertools.islice(found, _PAGE)), self.bucket)

    def _read(self, bucket: str, key: str, max_bytes: int | None) -> bytes:
        response = self._client.get_object(bucket, key)
        try:
            size_bytes = int(response.headers.get("content-length", -1))
            if max_bytes is None or size_bytes <= max_bytes:
                return response.read()
            response.close()  # unread bytes make the connection useless for the next request
        finally:
            response.release_conn()
        message = f"{key} has {size_bytes} bytes; the limit is {max_bytes}"
        raise PoisonError("object_too_large", message)

    def _with_bucket(self, work: Callable[[], _Value]) -> _Value:
        try:
            return work()
        except S3Error as error:
            if error.code != "NoSuchBucket":
                raise
        try:
            self._client.make_bucket(self.bucket)
        except S3Error as error:
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise
        return work()

    async def _call(self, work: Callable[[], _Value], bucket: str) -> _Value:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except S3Error as error:
            raise self._as_ours(error, bucket) from error
        except (ServerError, InvalidResponseError) as error:
            raise _as_down(error) from error
        except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
            raise DependencyDownError("objects", f"the store is away: {error}") from error

    def _as_ours(self, error: S3Error, bucket: str) -> Exception:
        code = error.code or ""
        if code in _MISSING:
            return PoisonError("object_missing", f"{bucket} holds no such object")
        if not self._allowed.is_own(bucket) and code in ("NoSuchBucket", "AccessDenied"):
            # One sender's bad bucket must not stop everybody's work.
            return PoisonError("bucket_unreadable", f"{bucket}: {code}")
        if code in _FULL or error.response.status == 507:
            return StorageFullError("objects", f"the store is full: {code}")
        return DependencyDownError("objects", f"{bucket}: {code} {error.message}")


def _as_down(error: ServerError | InvalidResponseError) -> DependencyDownError:
    if getattr(error, "status_code", 0) == 507:
        return StorageFullError("objects", "the store is full")
    return DependencyDownError("objects", f"the store cannot answer: {error}")
