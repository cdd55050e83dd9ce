"""The anomaly stage: an image against its product's memory bank, to a verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from consumers.anomaly.bank_files import BankLibrary, BankUnavailableError, StateLookup
from consumers.anomaly.features import FeatureExtractor, PatchGrid
from consumers.anomaly.heatmap import render_heatmap
from consumers.anomaly.memory_bank import MemoryBank, nearest
from consumers.anomaly.regions import Extent, find_regions
from consumers.anomaly.scoring import anomaly_map, descriptor, image_score
from consumers.anomaly.verdict import DEFAULT_BAND, decide_verdict
from pipeline.claim_check import fetch_verified
from pipeline.errors import PoisonError
from pipeline.policy import skip_reason
from pipeline.ports import BlobStore, Clock
from pipeline.stage import Settled
from schemas.anomalies import HeatmapScale, ImageScored, NearestNormal, Region
from schemas.configuration import ProductConfigured
from schemas.event import Event, derived_event_id, origin_of
from schemas.images import ImageSkipped, ImageUploaded, InspectionRequested
from schemas.subject import Subject


@dataclass(frozen=True, slots=True)
class AnomalyParts:
    """What the stage works with; `decode` gives (H, W, 3) uint8 RGB with EXIF applied."""

    products: StateLookup
    banks: BankLibrary
    store: BlobStore
    decode: Callable[[bytes], NDArray[np.uint8]]
    extractor: FeatureExtractor
    clock: Clock
    max_image_bytes: int = 50_000_000


class AnomalyItem(NamedTuple):
    """An image, and the bank and settings that were active when it was loaded."""

    pixels: NDArray[np.uint8]
    bank: MemoryBank
    product: ProductConfigured


class Finding(NamedTuple):
    """What the compute thread found; `heatmap` is a PNG."""

    item: AnomalyItem
    score: float
    regions: tuple[Region, ...]
    heatmap: bytes
    scale: HeatmapScale
    nearest_normal: NearestNormal


class AnomalyStage:
    """`images.uploaded` and requests to `images.scored` or `images.skipped`."""

    name = "anomaly"

    def __init__(self, parts: AnomalyParts) -> None:
        """Judge with the banks of `parts`."""
        self._parts = parts

    async def load(self, event: Event) -> AnomalyItem | Settled:
        """Fetch and decode the image, and its product's active bank.

        Raises:
            PoisonError: `unknown_product`, or the image is not what the event says.
            DependencyDownError: the store is away.
        """
        if not _is_meant(event):
            return Settled(None)
        assert isinstance(event, ImageUploaded | InspectionRequested)
        subject = event.subject
        product = await self._parts.products.lookup(subject.product)
        if not isinstance(product, ProductConfigured):
            raise PoisonError("unknown_product", f"{subject.product} is not configured")
        skip = skip_reason(event, wanted=subject.requested.anomaly, policy=product.policy.anomaly)
        if skip is not None:
            facts = self._facts(event)
            revision = product.revision
            return Settled(ImageSkipped(**facts, reason=skip, configuration_revision=revision))
        try:
            bank = await self._parts.banks.open(subject.product, product.active_bank)
        except BankUnavailableError as error:
            return Settled(self._error(event, product, error.reason))
        data = await fetch_verified(
            self._parts.store, subject.image, max_bytes=self._parts.max_image_bytes
        )
        pixels = await asyncio.to_thread(self._parts.decode, data)
        return AnomalyItem(pixels, bank, product)

    @torch.inference_mode()
    def infer(self, items: Sequence[AnomalyItem]) -> Sequence[Finding]:
        """Score images; those of one bank share a search."""
        grids = self._parts.extractor.patches([item.pixels for item in items])
        by_bank: dict[int, list[int]] = {}
        for index, item in enumerate(items):
            by_bank.setdefault(id(item.bank), []).append(index)
        found: dict[int, torch.Tensor] = {}
        for members in by_bank.values():
            bank = items[members[0]].bank
            queries = torch.cat([grids[index].patches for index in members])
            hits = nearest(queries, bank.vectors, bank.squared_norms)
            sizes = [len(grids[index].patches) for index in members]
            found.update(zip(members, torch.split(hits.distances, sizes), strict=True))
        return [self._find(item, grids[index], found[index]) for index, item in enumerate(items)]

    async def save(self, event: Event, result: Finding) -> ImageScored:
        """Store the heatmap and return the verdict."""
        assert isinstance(event, ImageUploaded | InspectionRequested)
        facts = self._facts(event)
        key = f"heatmaps/{facts['event_id']}.png"
        await self._parts.store.put(key, result.heatmap, content_type="image/png")
        item = result.item
        calibration = item.bank.calibration
        threshold = item.product.threshold or calibration.threshold
        source = f"set by hand, revision {item.product.revision}"
        band = item.product.review_band or DEFAULT_BAND
        decision = decide_verdict(result.score, threshold, band)
        return ImageScored(
            **facts,
            verdict=decision.verdict,
            reason=decision.reason,
            score=result.score,
            threshold=threshold,
            threshold_source=source if item.product.threshold else calibration.threshold_source,
            map_threshold=calibration.map_threshold,
            map_threshold_source=calibration.map_threshold_source,
            review_band=(threshold * band[0], threshold * band[1]),
            percentile=calibration.percentile(result.score),
            model=item.bank.model,
            bank_version=item.bank.version,
            configuration_revision=item.product.revision,
            heatmap_key=key,
            heatmap_scale=result.scale,
            regions=result.regions,
            nearest_normal=result.nearest_normal,
        )

    def _find(self, item: AnomalyItem, grid: PatchGrid, distances: torch.Tensor) -> Finding:
        calibration = item.bank.calibration
        height, width = item.pixels.shape[:2]
        extent = Extent(height, width, grid.cell_px)
        heat = anomaly_map(distances, grid.rows, grid.columns)
        low, high = calibration.map_low, calibration.map_high
        return Finding(
            item=item,
            score=image_score(distances, self._parts.extractor.recipe.top_fraction),
            regions=find_regions(heat, extent, low=low, seed=calibration.map_threshold),
            heatmap=render_heatmap(heat, extent, low=low, high=high),
            scale=HeatmapScale(low=low, high=high, cell_px=grid.cell_px),
            nearest_normal=_nearest_normal(item.bank, grid),
        )

    def _facts(self, event: ImageUploaded | InspectionRequested) -> dict[str, Any]:
        """Fields that every output of this stage carries."""
        return {
            "event_id": derived_event_id(self.name, event.event_id),
            "occurred_at": self._parts.clock.now(),
            "subject": _subject(event),
            "stage": self.name,
            "trigger_event_id": event.event_id,
            **origin_of(event),
        }

    def _error(
        self, event: ImageUploaded | InspectionRequested, product: ProductConfigured, reason: str
    ) -> ImageScored:
        return ImageScored(
            **self._facts(event),
            verdict="ERROR",
            reason=reason,
            bank_version=product.active_bank,
            configuration_revision=product.revision,
        )


def _is_meant(event: Event) -> bool:
    if isinstance(event, InspectionRequested):
        return event.stage == "anomaly"
    return isinstance(event, ImageUploaded)


def _subject(event: ImageUploaded | InspectionRequested) -> Subject:
    """Carry a wish for a report on to the stage that writes it."""
    if isinstance(event, InspectionRequested) and event.explain:
        requested = event.subject.requested.model_copy(update={"report": "force"})
        return event.subject.model_copy(update={"requested": requested})
    return event.subject


def _nearest_normal(bank: MemoryBank, grid: PatchGrid) -> NearestNormal:
    own = descriptor(grid.patches, grid.rows, grid.columns)
    gaps = (bank.descriptors - own).norm(dim=1)
    index = int(gaps.argmin())
    return NearestNormal(image_key=bank.image_keys[index], distance=float(gaps[index]))
