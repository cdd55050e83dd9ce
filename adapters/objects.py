"""The object store by its address: `file:///…` or `s3://bucket?endpoint=…`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from adapters.objects_local import LocalObjects
from adapters.objects_s3 import S3Address, S3Objects
from pipeline.errors import ConfigError

Objects = LocalObjects | S3Objects


@asynccontextmanager
async def open_objects(
    url: str,
    *,
    access_key: str | None = None,
    secret_key: str | None = None,
    allowed_prefixes: tuple[str, ...] = (),
) -> AsyncIterator[Objects]:
    """Open the store; its own bucket's name is `.bucket`.

    A store that is away does not hinder the start: its first call says so.

    Raises:
        ConfigError: an address that is neither kind.
    """
    parts = urlsplit(url)
    store: Objects
    if parts.scheme == "file":
        store = LocalObjects(_directory(url), allowed_prefixes=allowed_prefixes)
        try:
            await asyncio.to_thread(store.prepare)
        except OSError as error:
            message = f"LINESIDE_OBJECTS__URL={url}: cannot make the directory: {error.strerror}"
            raise ConfigError(message) from error
    elif parts.scheme == "s3":
        address = s3_address(url, access_key=access_key, secret_key=secret_key)
        store = S3Objects(address, allowed_prefixes=allowed_prefixes)
    else:
        raise ConfigError(
            f"LINESIDE_OBJECTS__URL={url}: use file:///directory or "
            "s3://bucket?endpoint=http://host:port"
        )
    try:
        yield store
    finally:
        await asyncio.to_thread(store.close)


def _directory(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        message = f"LINESIDE_OBJECTS__URL={url}: use three slashes, file:///directory"
        raise ConfigError(message)
    return Path(unquote(parts.path))


def s3_address(url: str, *, access_key: str | None, secret_key: str | None) -> S3Address:
    """Read `s3://bucket?endpoint=http://host:port&region=…`.

    Raises:
        ConfigError: no bucket or no endpoint.
    """
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    endpoint = urlsplit(query.get("endpoint", ""))
    if not parts.netloc or endpoint.scheme not in ("http", "https") or not endpoint.netloc:
        message = f"LINESIDE_OBJECTS__URL={url}: use s3://bucket?endpoint=http://host:port"
        raise ConfigError(message)
    return S3Address(
        endpoint=endpoint.netloc,
        bucket=parts.netloc,
        access_key=access_key,
        secret_key=secret_key,
        secure=endpoint.scheme == "https",
        region=query.get("region", "us-east-1"),
    )
