"""Building a bank from a product's normal photos, as a stage of its own (`banks.requested`)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.anomaly.bank_files import (
    BankUnavailableError,
    StateLookup,
    bank_prefix,
    pack_bank,
    read_bank,
    write_bank,
)
from consumers.anomaly.features import FeatureExtractor
from consumers.anomaly.fitting import FitPlan, Normals, fit_bank
from consumers.anomaly.jobs import JobBoard, JobProgress
from consumers.anomaly.memory_bank import MemoryBank, Watch
from pipeline.claim_check import verified
from pipeline.errors import PoisonError
from pipeline.ports import BlobStore, Clock
from pipeline.stage import Settled
from schemas.configuration import BankPublished, BankRequested, ProductConfigured
from schemas.event import Event, derived_event_id

MIN_NORMALS = 5
# Memory: 1,000 images are 1.6 million patches, about 1 GB with the default backbone.
MAX_NORMALS = 1000
_IMAGES_AT_ONCE = 8
_SHA256 = re.compile("[0-9a-f]{64}")


class BuildCancelledError(Exception):
    """The build was told to stop; nothing of it was published."""


@dataclass(frozen=True, slots=True)
class FitParts:
    """What the build stage works with."""

    products: StateLookup
    store: BlobStore
    decode: Callable[[bytes], NDArray[np.uint8]]
    extractor: FeatureExtractor
    plan: FitPlan
    clock: Clock
    max_image_bytes: int = 50_000_000


class BuildItem(NamedTuple):
    """A request with the photos it means, keys in order."""

    event: BankRequested
    keys: tuple[str, ...]


class BankBuildStage:
    """`banks.requested` to `banks.published`, with progress in `jobs/<job_id>.json`."""

    name = "bank-build"

    def __init__(self, parts: FitParts) -> None:
        """Build one bank at a time: two would only share the same cores."""
        self._parts = parts
        self._turn = asyncio.Lock()
        self._board = JobBoard(parts.store, parts.clock)

    async def load(self, event: Event) -> BuildItem | Settled:
        """List the product's normal photos.

        Raises:
            PoisonError: `unknown_product`, or `too_few_normals`.
        """
        if not isinstance(event, BankRequested):
            return Settled(None)
        job = JobProgress(event.job_id, event.product)
        if not isinstance(await self._parts.products.lookup(event.product), ProductConfigured):
            await self._board.fail(job, "unknown product")
            raise PoisonError("unknown_product", f"{event.product} is not configured")
        prefix = f"normals/{event.product}/"
        keys = sorted([stat.key async for stat in self._parts.store.list(prefix)])
        if len(keys) < MIN_NORMALS:
            message = f"{event.product} has {len(keys)} normal photos; add at least {MIN_NORMALS}"
            await self._board.fail(job, message)
            raise PoisonError("too_few_normals", message)
        # Chosen by content, so the same photos are taken wherever and whenever it runs.
        return BuildItem(event, tuple(sorted(keys, key=_spread)[:MAX_NORMALS]))

    async def infer(self, item: BuildItem) -> BankPublished:
        """Build, or find built, the bank of exactly these photos."""
        job = JobProgress(item.event.job_id, item.event.product)
        await self._board.write(job)
        stop = threading.Event()
        async with self._turn, self._board.reporting(job):
            try:
                return await self._build(item, job, stop)
            except asyncio.CancelledError:
                stop.set()
                raise

    async def save(self, event: Event, result: BankPublished) -> BankPublished:
        """Close the job; the bank's files are already in the store, its manifest last."""
        assert isinstance(event, BankRequested)
        done = JobProgress(event.job_id, event.product, state="done", step="done")
        done.version = result.version
        done.done = done.total = result.normals
        await self._board.write(done)
        return result

    async def _build(
        self, item: BuildItem, job: JobProgress, stop: threading.Event
    ) -> BankPublished:
        parts, product = self._parts, item.event.product
        version = parts.plan.version(item.keys)
        prefix = bank_prefix(product, version)
        try:
            bank = await read_bank(parts.store, prefix, None)
        except BankUnavailableError:
            bank = await self._make(item, version, job, stop)
        files_digest, size = await self._digest(prefix)
        calibration = bank.calibration
        return BankPublished(
            event_id=derived_event_id(self.name, item.event.event_id),
            occurred_at=parts.clock.now(),
            product=product,
            version=version,
            prefix=prefix,
            sha256=files_digest,
            size_bytes=size,
            model=bank.model,
            normals=len(bank.image_keys),
            threshold=calibration.threshold,
            map_threshold=calibration.map_threshold,
            job_id=item.event.job_id,
            calibration={
                "threshold_source": calibration.threshold_source,
                "map_threshold_source": calibration.map_threshold_source,
                "target_false_reject": calibration.target_false_reject,
                "map_low": calibration.map_low,
                "map_high": calibration.map_high,
                "scores": list(calibration.scores),
            },
        )

    async def _digest(self, prefix: str) -> tuple[str, int]:
        manifest = await self._parts.store.get(prefix + "manifest.json")
        size = len(manifest) + int(json.loads(manifest)["tensors_bytes"])
        return hashlib.sha256(manifest).hexdigest(), size

    async def _make(
        self, item: BuildItem, version: str, job: JobProgress, stop: threading.Event
    ) -> MemoryBank:
        normals = await self._collect(item, job)
        if len(normals.keys) < MIN_NORMALS:
            message = f"only {len(normals.keys)} of the normal photos can be read"
            job.error = message
            raise PoisonError("too_few_normals", message)

        def watch(step: str) -> Watch:
            def tell(done: int, total: int) -> None:
                if stop.is_set():
                    raise BuildCancelledError
                job.at(step, done, total)

            return tell

        parts = self._parts
        fitted = await asyncio.to_thread(
            fit_bank, item.event.product, version, normals, parts.plan, watch
        )
        job.at("saving", 0, 1)
        files = await asyncio.to_thread(pack_bank, fitted.bank, fitted.notes)
        await write_bank(parts.store, fitted.bank, files)
        return fitted.bank

    async def _collect(self, item: BuildItem, job: JobProgress) -> Normals:
        normals = Normals()
        for start in range(0, len(item.keys), _IMAGES_AT_ONCE):
            keys = item.keys[start : start + _IMAGES_AT_ONCE]
            job.at("reading", start, len(item.keys))
            blobs = await asyncio.gather(*(self._fetch(key) for key in keys))
            await asyncio.to_thread(self._extract, normals, dict(zip(keys, blobs, strict=True)))
        return normals

    async def _fetch(self, key: str) -> bytes | PoisonError:
        name = key.rsplit("/", 1)[-1]
        try:
            data = await self._parts.store.get(key, max_bytes=self._parts.max_image_bytes)
            # The console names photos by their bytes; what lies there otherwise claims nothing.
            return await verified(data, sha256=name, key=key) if _SHA256.fullmatch(name) else data
        except PoisonError as error:
            return error

    def _extract(self, normals: Normals, blobs: Mapping[str, bytes | PoisonError]) -> None:
        """Decode and add what can be read; one bad photo is noted, not a reason to fail."""
        images: dict[str, NDArray[np.uint8]] = {}
        for key, blob in blobs.items():
            try:
                if isinstance(blob, PoisonError):
                    raise blob
                images[key] = self._parts.decode(blob)
            except PoisonError as error:
                normals.left_out.append({"key": key, "reason": error.reason})
        if images:
            normals.add(images, self._parts.extractor)


def _spread(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
