"""Fetching the bytes that an event names, and proving that they are those bytes."""

from __future__ import annotations

import asyncio
import hashlib

from pipeline.errors import PoisonError
from pipeline.ports import BlobStore
from schemas.subject import ImageRef

# Below this size hashing takes less than a hop to a thread, which an idle process has to wake.
_HASH_INLINE_BYTES = 128_000


async def fetch_verified(store: BlobStore, ref: ImageRef, *, max_bytes: int) -> bytes:
    """Return the bytes of `ref`.

    Raises:
        PoisonError: `object_missing`, `object_too_large`, `size_mismatch` or `sha256_mismatch`.
        DependencyDownError: the store is away.
    """
    if ref.size_bytes > max_bytes:
        raise PoisonError("object_too_large", f"{ref.size_bytes} bytes; the limit is {max_bytes}")
    data = await store.get(ref.key, bucket=ref.bucket, max_bytes=max_bytes)
    if len(data) != ref.size_bytes:
        message = f"{ref.key} has {len(data)} bytes where the event says {ref.size_bytes}"
        raise PoisonError("size_mismatch", message)
    return await verified(data, sha256=ref.sha256, key=ref.key)


async def verified(data: bytes, *, sha256: str, key: str) -> bytes:
    """Return the bytes if they are those that were stored under the key.

    Raises:
        PoisonError: `sha256_mismatch`.
    """
    if len(data) < _HASH_INLINE_BYTES:
        digest = hashlib.sha256(data).hexdigest()
    else:
        digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
    if digest != sha256:
        message = f"{key} was altered: it holds other bytes than were stored; send the file again"
        raise PoisonError("sha256_mismatch", message)
    return data
