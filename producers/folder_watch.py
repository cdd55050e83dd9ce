"""A folder that cameras write into: every complete picture is ingested once."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ValidationError

from pipeline.errors import RefusedError
from pipeline.ports import Clock
from producers.ingest import Capture, Ingest

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
# Answers that the next try may change: the product may be set up meanwhile, the disk be freed.
_WORTH_ANOTHER_TRY = frozenset({"unknown_product"})

Outcome = Literal["done", "refused", "later"]


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How to watch.

    Without `product` the first folder below the root names it: `<root>/<product>/…`. A file is
    complete when its size and time have not changed for `settle_s`. One older than
    `historical_after_s` when it is found makes no alarm.
    """

    product: str | None = None
    source: str | None = None
    poll_s: float = 1.0
    settle_s: float = 2.0
    historical_after_s: float = 3600.0


class Seen(NamedTuple):
    """What a file looked like; equal means it was not written to."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int


class Found(NamedTuple):
    """A file of the folder, its path relative to the root."""

    path: str
    seen: Seen


class FolderWatcher:
    """Polls a folder tree; a `Service`.

    Its memory is only a short cut: after a restart every file is offered again under the same
    identity (path and time) and answered as a duplicate. A file that is renamed after it was
    taken is recognised while the watcher runs. Files that are no pictures are reported once and
    left where they are; nothing is ever moved or deleted.
    """

    name = "folder-watch"

    def __init__(
        self, ingest: Ingest, root: Path, *, clock: Clock, options: WatchOptions | None = None
    ) -> None:
        """Only assign."""
        self._ingest = ingest
        self._root = root
        self._clock = clock
        self._options = options or WatchOptions()
        self._settled: set[Seen] = set()
        self._unstable: dict[str, tuple[Seen, float]] = {}
        self._reported: set[tuple[str, Seen]] = set()
        self._trouble: str | None = None

    def not_ready(self) -> Sequence[str]:
        """Say so while the folder cannot be read."""
        return [self._trouble] if self._trouble else []

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                await self.scan_once()
                self._trouble = None
            except OSError as error:
                self._trouble = f"folder watch: {self._root}: {error.strerror}"
                fields = {"action": "folder_unreadable", "reason": str(error)}
                logger.warning("the watched folder cannot be read", extra=fields)
            await self._clock.sleep(self._options.poll_s)

    async def scan_once(self) -> int:
        """Look once; returns how many files were taken.

        Raises:
            OSError: the folder itself cannot be read.
        """
        found = await asyncio.to_thread(lambda: list(_walk(self._root)))
        present = {item.seen for item in found}
        # What is gone is forgotten, so that memory follows the folder and not its history.
        self._settled &= present
        self._reported &= set(found)
        paths = {item.path for item in found}
        self._unstable = {path: kept for path, kept in self._unstable.items() if path in paths}
        taken = 0
        for item in found:
            if item.seen not in self._settled and self._is_complete(item):
                taken += await self._take(item)
        return taken

    def _is_complete(self, item: Found) -> bool:
        now_s = self._clock.monotonic()
        seen, since_s = self._unstable.get(item.path, (None, now_s))
        if seen != item.seen:
            self._unstable[item.path] = (item.seen, now_s)
            # A file at rest for long was complete before we came.
            age_s = self._clock.now().timestamp() - item.seen.mtime_ns / 1e9
            return item.seen.size_bytes > 0 and age_s > 10 * self._options.settle_s
        return now_s - since_s >= self._options.settle_s

    async def _take(self, item: Found) -> bool:
        outcome = await self._offer(item)
        if outcome != "later":
            self._settled.add(item.seen)
            self._unstable.pop(item.path, None)
        return outcome == "done"

    async def _offer(self, item: Found) -> Outcome:
        try:
            capture = self._capture(item)
            data = await asyncio.to_thread(self._read, item)
            if data is None:
                return "later"
            await self._ingest.accept(data, capture)
        except RefusedError as error:
            if error.retry_after_s is not None or error.slug in _WORTH_ANOTHER_TRY:
                self._report(item, error.slug, error.detail)
                return "later"
            self._report(item, error.slug, error.detail)
            return "refused"
        except ValidationError as error:
            self._report(item, "bad_name", error.errors(include_url=False)[0]["msg"])
            return "refused"
        except OSError as error:
            self._report(item, "unreadable", str(error.strerror))
            return "later"
        return "done"

    def _capture(self, item: Found) -> Capture:
        modified_at = datetime.fromtimestamp(item.seen.mtime_ns / 1e9, UTC)
        age_s = (self._clock.now() - modified_at).total_seconds()
        folder, _, _ = item.path.partition("/")
        return Capture(
            product=self._options.product or folder,
            source=self._options.source,
            captured_at=modified_at,
            time_quality="assumed",
            is_historical=age_s > self._options.historical_after_s,
            idempotency_key=f"{item.path}@{item.seen.mtime_ns}",
        )

    def _read(self, item: Found) -> bytes | None:
        """Read a file, None if it changed meanwhile or is too large to be taken."""
        with (self._root / item.path).open("rb") as file:
            # One byte more than allowed is enough for a refusal that names the limit.
            data = file.read(self._ingest.limits.max_bytes + 1)
            after = _seen(os.fstat(file.fileno()))
        return data if after == item.seen else None

    def _report(self, item: Found, slug: str, detail: str) -> None:
        if item not in self._reported:
            self._reported.add(item)
            fields = {"action": "file_refused", "path": item.path, "slug": slug, "reason": detail}
            logger.warning("a file was not taken; it is left where it is", extra=fields)

    @property
    def refused(self) -> Sequence[str]:
        """Paths that were reported, sorted."""
        return sorted(path for path, _ in self._reported)


def _walk(root: Path) -> Iterator[Found]:
    """Yield pictures below the root in path order; hidden ones and links are not followed."""
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            if folder == root:
                raise
            continue  # removed, or not ours to read
        below = []
        for entry in entries:
            if entry.name.startswith((".", "~")) or entry.is_symlink():
                continue
            if entry.is_dir():
                below.append(Path(entry.path))
            elif Path(entry.name).suffix.lower() in SUFFIXES:
                yield from _look(root, entry)
        folders.extend(reversed(below))


def _look(root: Path, entry: os.DirEntry[str]) -> Iterator[Found]:
    try:
        seen = _seen(entry.stat())
    except OSError:
        return  # renamed or removed between two calls
    yield Found(Path(entry.path).relative_to(root).as_posix(), seen)


def _seen(stat: os.stat_result) -> Seen:
    return Seen(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
