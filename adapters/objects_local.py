"""Objects as files below one directory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from adapters.object_keys import TEMPORARY_FOLDER, AllowList, check_key
from pipeline.errors import DependencyDownError, PoisonError, StorageFullError
from pipeline.ports import BlobStat

BUCKET = "local"

_Value = TypeVar("_Value")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_serial = itertools.count()


class LocalObjects:
    """`BlobStore` on a directory; an object appears whole or not at all, and survives a crash.

    Args:
        root: the directory; made when first written to.
        allowed_prefixes: foreign directories that events may name.
    """

    bucket = BUCKET

    def __init__(self, root: Path, *, allowed_prefixes: tuple[str, ...] = ()) -> None:
        """Only assign; threads start with the first call."""
        self._root = root.absolute()
        self._allowed = AllowList(BUCKET, allowed_prefixes)
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="objects")

    def prepare(self) -> None:
        """Make the directory and drop what writers that died left half-written."""
        _make_directories(self._root)
        oldest = time.time() - 3600
        for path in (self._root / TEMPORARY_FOLDER).glob("*"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def close(self) -> None:
        """Wait for calls under way and let the threads go."""
        self._threads.shutdown()

    async def get(
        self, key: str, *, bucket: str | None = None, max_bytes: int | None = None
    ) -> bytes:
        """Read a file; see `BlobStore.get`."""
        place = self._allowed.check(bucket, key)
        if place != BUCKET:
            return await self._call(lambda: _read(Path("/", place), key, max_bytes))
        return await self._call(lambda: _read(_present(self._root), key, max_bytes))

    async def put(self, key: str, data: bytes, *, content_type: str) -> None:
        """Write, fsync, rename, fsync the directory. The content type is told by the key."""
        del content_type
        path = self._path(key)
        temporary = self._root / TEMPORARY_FOLDER / f"{os.getpid()}-{next(_serial)}"
        await self._call(lambda: _write(path, temporary, data))

    async def stat(self, key: str) -> BlobStat | None:
        """Look a file up."""
        path = self._path(key)
        return await self._call(lambda: _stat(path, key))

    async def delete(self, key: str) -> None:
        """Remove a file."""
        path = self._path(key)
        await self._call(lambda: path.unlink(missing_ok=True))

    async def list(self, prefix: str) -> AsyncIterator[BlobStat]:
        """Walk files in key order, a thousand per thread hop."""
        walk = _walk(self._root, prefix)
        while chunk := await self._call(lambda: tuple(itertools.islice(walk, 1000))):
            for entry in chunk:
                yield entry

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    async def _call(self, work: Callable[[], _Value]) -> _Value:
        # A thread even for small files: an fsync on a busy disk can take tens of milliseconds.
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except OSError as error:
            if error.errno in _FULL:
                raise StorageFullError("objects", f"{self._root}: no space left") from error
            raise DependencyDownError("objects", f"{self._root}: {error.strerror}") from error


def _present(root: Path) -> Path:
    """Tell a store that is not mounted from one object that is missing."""
    if not root.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the directory is missing; mount it")
    return root


def _read(root: Path, key: str, max_bytes: int | None) -> bytes:
    # Resolved, so that a symbolic link inside the store cannot lead out of it.
    path = Path(os.path.realpath(root / key))
    if not path.is_relative_to(os.path.realpath(root)):
        raise PoisonError("bucket_not_allowed", f"{key[:200]} leads out of its store")
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if max_bytes is not None and size_bytes > max_bytes:
                message = f"{key} has {size_bytes} bytes; the limit is {max_bytes}"
                raise PoisonError("object_too_large", message)
            return file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise PoisonError("object_missing", f"{key} is not in the store") from None
    except PermissionError:
        raise PoisonError("object_unreadable", f"{key}: no permission to read it") from None


def _write(path: Path, temporary: Path, data: bytes) -> None:
    _make_directories(temporary.parent)
    _make_directories(path.parent)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _make_directories(directory: Path) -> None:
    """Make missing directories durably, parents first."""
    line = (directory, *directory.parents)
    missing = tuple(itertools.takewhile(lambda path: not path.exists(), line))
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    """Make a rename durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _stat(path: Path, key: str) -> BlobStat | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not path.is_file():
        return None
    return BlobStat(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _walk(root: Path, prefix: str) -> Iterator[BlobStat]:
    """Yield what `prefix` begins, in the order of the keys' code points, as S3 does."""
    folder, _, _ = prefix.rpartition("/")
    if folder:
        check_key(folder)
    yield from _walk_folder(root / folder, f"{folder}/" if folder else "", prefix)


def _walk_folder(folder: Path, path: str, prefix: str) -> Iterator[BlobStat]:
    try:
        entries = sorted(
            (entry.name + ("/" if entry.is_dir(follow_symlinks=False) else ""), entry.path)
            for entry in os.scandir(folder)
            if not entry.is_symlink() and entry.name != TEMPORARY_FOLDER
        )
    except (FileNotFoundError, NotADirectoryError):
        return
    for name, place in entries:
        key = path + name
        if not key.startswith(prefix):
            continue
        if name.endswith("/"):
            yield from _walk_folder(Path(place), key, prefix)
        elif found := _stat(Path(place), key):
            yield found
