"""From registered cases to a searchable index; snapshots save the embedding."""

from __future__ import annotations

import asyncio
import io
import logging
import zipfile
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from consumers.embed.encoder import Encoder
from consumers.embed.index import Case, CaseIndex
from consumers.embed.likeness import Embedding
from pipeline.claim_check import fetch_verified
from pipeline.errors import PoisonError, TransientError
from pipeline.ports import BlobStore, Clock
from schemas.configuration import CaseRegistered

logger = logging.getLogger(__name__)

Decode = Callable[[bytes], NDArray[np.uint8]]

# Small, so that an uploaded image never waits long for the compute thread.
_BATCH = 8
_SNAPSHOT_EVERY = 256
_SNAPSHOTS_KEPT = 2
_RETRY_S = 1.0
_SNAPSHOT_TYPE = "application/octet-stream"


class CaseLog(Protocol):
    """The replica of `cases.registered`, as far as the indexer needs it."""

    async def wait_caught_up(self) -> None:
        """Return once every case known at start was handed to `CaseIndexer.note`."""
        ...


@dataclass(frozen=True, slots=True)
class Workbench:
    """What turns a stored picture into a vector: `decode` gives (H, W, 3) uint8 RGB."""

    objects: BlobStore
    decode: Decode
    encoder: Encoder
    max_bytes: int = 50_000_000

    async def embed(self, data: bytes) -> Embedding:
        """Embed one picture, off the event loop.

        Raises:
            PoisonError: no picture.
        """
        return await asyncio.to_thread(self._embed, data)

    def _embed(self, data: bytes) -> Embedding:
        return self.encoder.encode([self.decode(data)])[0]


class CaseIndexer:
    """Keeps a `CaseIndex` equal to the log of cases; a Service.

    What a case says comes from the log alone. A snapshot holds only embeddings by the sha256 of
    their picture: it saves computing them again, and can bring no removed case back.
    """

    name = "case index"

    def __init__(self, bench: Workbench, index: CaseIndex, *, clock: Clock) -> None:
        """Nothing runs yet; give `note` to the replica as its `on_change`, then call `run`."""
        self._bench = bench
        self._index = index
        self._clock = clock
        self._waiting: OrderedDict[str, CaseRegistered] = OrderedDict()
        self._wake = asyncio.Event()
        self._caught_up = False
        self._ready = asyncio.Event()
        self._known: dict[str, Embedding] = {}
        self._unsaved = 0
        self._changes = 0
        self._log: CaseLog | None = None
        self._trouble: str | None = None

    def follow(self, log: CaseLog) -> None:
        """Name the replica whose changes arrive at `note`."""
        self._log = log

    async def note(self, event: CaseRegistered) -> None:
        """Take a change, in log order; the newest of a case counts."""
        self._changes += 1
        self._waiting.pop(event.case_id, None)
        self._waiting[event.case_id] = event
        self._wake.set()

    def not_ready(self) -> Sequence[str]:
        """Say how many cases known at start are still to be indexed."""
        if self._ready.is_set():
            return ()
        trouble = f": {self._trouble}" if self._trouble else ""
        return (f"case index is being built, {len(self._waiting)} cases to go{trouble}",)

    def waiting(self) -> int:
        """Number of changes that a search does not see yet."""
        return len(self._waiting)

    async def wait_ready(self) -> None:
        """Return once every case known at start can be found."""
        await self._ready.wait()

    async def run(self) -> None:
        """Index until cancelled; across outages of the store."""
        assert self._log is not None
        await self._retrying(self._restore)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._work())
            tasks.create_task(self._watch(self._log))

    async def _watch(self, log: CaseLog) -> None:
        await log.wait_caught_up()
        self._caught_up = True
        self._wake.set()

    async def _announce(self) -> None:
        self._ready.set()
        logger.info("case index ready", extra={"action": "index_ready", **self._index.counts()})
        if self._unsaved:
            await self._retrying(self._save)
        self._known.clear()

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch = list(self._waiting.values())[:_BATCH]
                await self._retrying(partial(self._settle, batch))
                for event in batch:  # a change that came meanwhile stays
                    if self._waiting.get(event.case_id) is event:
                        del self._waiting[event.case_id]
            if self._caught_up and not self._ready.is_set():
                await self._announce()
            elif self._unsaved >= _SNAPSHOT_EVERY and self._ready.is_set():
                await self._retrying(self._save)

    async def _retrying(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except TransientError as error:
                self._trouble = str(error)
                logger.warning(
                    "case index waits", extra={"action": "index_waits", "error": str(error)}
                )
                await self._clock.sleep(_RETRY_S)
            else:
                self._trouble = None
                return

    async def _settle(self, batch: Sequence[CaseRegistered]) -> None:
        for event in batch:
            if event.removed:
                self._index.remove(event.case_id)
        present = [event for event in batch if not event.removed]
        fresh = [event for event in present if event.image.sha256 not in self._known]
        await self._embed(fresh)
        usable = [event for event in present if event.image.sha256 in self._known]
        if usable:
            known = [self._known[event.image.sha256] for event in usable]
            await asyncio.to_thread(self._index.put, [_case(event) for event in usable], known)
        if self._ready.is_set():
            self._known.clear()

    async def _embed(self, events: Sequence[CaseRegistered]) -> None:
        """Fetch and embed; a case whose picture cannot be used is logged and left out."""
        pictures = await asyncio.gather(*(self._picture(event) for event in events))
        good = [(event, data) for event, data in zip(events, pictures, strict=True) if data]
        for event, data in good:
            try:
                self._known[event.image.sha256] = await self._bench.embed(data)
                self._unsaved += 1
            except PoisonError as error:
                _refuse(event, error)

    async def _picture(self, event: CaseRegistered) -> bytes | None:
        bench = self._bench
        try:
            return await fetch_verified(bench.objects, event.image, max_bytes=bench.max_bytes)
        except PoisonError as error:
            _refuse(event, error)
            return None

    @property
    def _folder(self) -> str:
        return f"snapshots/{self._index.namespace}/"

    async def _snapshots(self) -> list[str]:
        return [stat.key async for stat in self._bench.objects.list(self._folder)]

    async def _restore(self) -> None:
        """Take vectors from the newest snapshot; a damaged one costs only time."""
        keys = await self._snapshots()
        if not keys:
            return
        try:
            data = await self._bench.objects.get(keys[-1])
            self._known = await asyncio.to_thread(unpack, data, self._index.dimension)
        except (PoisonError, ValueError, KeyError, zipfile.BadZipFile) as error:
            extra = {"action": "snapshot_unusable", "key": keys[-1], "error": str(error)}
            logger.warning("snapshot left aside", extra=extra)

    async def _save(self) -> None:
        """Write the next snapshot, once; the highest number wins."""
        keys = await self._snapshots()
        last = int(keys[-1].rsplit("/", 1)[-1]) if keys else 0
        number = max(last + 1, self._changes)
        data = await asyncio.to_thread(lambda: pack(self._index.entries()))
        key = f"{self._folder}{number:020}"
        await self._bench.objects.put(key, data, content_type=_SNAPSHOT_TYPE)
        self._unsaved = 0
        for old in keys[: -(_SNAPSHOTS_KEPT - 1)]:
            await self._bench.objects.delete(old)
        logger.info("snapshot written", extra={"action": "snapshot_written", "key": key})


def pack(entries: Sequence[tuple[Case, Embedding]]) -> bytes:
    """Write embeddings by the sha256 of their picture; no pickle inside."""
    embeddings = {case.sha256: embedding for case, embedding in entries}
    file = io.BytesIO()
    np.savez(
        file,
        sha256=np.array(list(embeddings), dtype="S64"),
        vectors=np.array([item.vector for item in embeddings.values()], dtype=np.float32),
        cells=np.array([item.cells for item in embeddings.values()], dtype=np.float16),
    )
    return file.getvalue()


def unpack(data: bytes, dimension: int) -> dict[str, Embedding]:
    """Read what `pack` wrote.

    Raises:
        ValueError: not such a file, or vectors of another dimension.
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        names, vectors, cells = file["sha256"], file["vectors"], file["cells"]
    if vectors.shape != (len(names), dimension):
        raise ValueError(f"snapshot of shape {vectors.shape}, expected {dimension} columns")
    rows = zip(names, vectors, cells, strict=True)
    return {name.decode(): Embedding(vector, local) for name, vector, local in rows}


def _case(event: CaseRegistered) -> Case:
    return Case(
        case_id=event.case_id,
        product=event.product,
        image_key=event.image.key,
        sha256=event.image.sha256,
        image_id=event.image_id,
        part_id=event.part_id,
        defect_type=event.defect_type,
        decision=event.decision,
        decided_at=event.decided_at,
        action_taken=event.action_taken,
    )


def _refuse(event: CaseRegistered, error: PoisonError) -> None:
    logger.error(
        "case cannot be searched",
        extra={
            "action": "case_refused",
            "case_id": event.case_id,
            "product": event.product,
            "reason": error.reason,
            "error": str(error),
        },
    )
