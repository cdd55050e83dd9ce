"""The anomaly stage: an image against its product's memory bank, to a verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.anomaly.bank_files import BankLibrary, BankUnavailableError, StateLookup
from consumers.anomaly.features import FeatureExtractor
from consumers.anomaly.inspection import Finding, inspect
from consumers.anomaly.memory_bank import MemoryBank
from consumers.anomaly.verdict import DEFAULT_BAND, decide_verdict
from pipeline.claim_check import fetch_verified
from pipeline.errors import PoisonError
from pipeline.policy import skip_reason
from pipeline.ports import BlobStore, Clock
from pipeline.stage import Settled
from schemas.anomalies import ImageScored
from schemas.configuration import ProductConfigured
from schemas.event import Event, result_fields
from schemas.images import ImageSkipped, ImageUploaded, InspectionRequested
from schemas.subject import Subject


@dataclass(frozen=True, slots=True)
class AnomalyParts:
    """What the stage works with; `decode` gives (H, W, 3) uint8 RGB with EXIF applied.

    What the stage stores lies below `object_prefix`: a replay's lies apart from live objects.
    """

    products: StateLookup
    banks: BankLibrary
    store: BlobStore
    decode: Callable[[bytes], NDArray[np.uint8]]
    extractor: FeatureExtractor
    clock: Clock
    max_image_bytes: int = 50_000_000
    object_prefix: str = ""


class AnomalyItem(NamedTuple):
    """An image, and the bank and settings that were active when it was loaded."""

    pixels: NDArray[np.uint8]
    bank: MemoryBank
    product: ProductConfigured


class Judged(NamedTuple):
    """An item with what was found, and the time of the batch that it was computed in."""

    item: AnomalyItem
    finding: Finding
    infer_ms: float


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

    def infer(self, items: Sequence[AnomalyItem]) -> Sequence[Judged]:
        """Inspect images, each against the bank that it was loaded with."""
        parts = self._parts
        started = parts.clock.monotonic()
        findings = inspect(parts.extractor, [(item.pixels, item.bank) for item in items])
        infer_ms = 1000 * (parts.clock.monotonic() - started)
        return [
            Judged(item, finding, infer_ms) for item, finding in zip(items, findings, strict=True)
        ]

    async def save(self, event: Event, result: Judged) -> ImageScored:
        """Store the heatmap and return the verdict."""
        assert isinstance(event, ImageUploaded | InspectionRequested)
        facts = self._facts(event)
        key = f"{self._parts.object_prefix}heatmaps/{facts['event_id']}.png"
        item, finding = result.item, result.finding
        await self._parts.store.put(key, finding.heatmap, content_type="image/png")
        calibration = item.bank.calibration
        threshold = item.product.threshold or calibration.threshold
        source = f"set by hand, revision {item.product.revision}"
        band = item.product.review_band or DEFAULT_BAND
        decision = decide_verdict(finding.score, threshold, band)
        return ImageScored(
            **facts,
            verdict=decision.verdict,
            reason=decision.reason,
            score=finding.score,
            threshold=threshold,
            threshold_source=source if item.product.threshold else calibration.threshold_source,
            map_threshold=calibration.map_threshold,
            map_threshold_source=calibration.map_threshold_source,
            review_band=(threshold * band[0], threshold * band[1]),
            percentile=calibration.percentile(finding.score),
            model=item.bank.model,
            bank_version=item.bank.version,
            configuration_revision=item.product.revision,
            heatmap_key=key,
            heatmap_scale=finding.scale,
            regions=finding.regions,
            nearest_normal=finding.nearest_normal,
            timings_ms={"infer": result.infer_ms},
        )

    def _facts(self, event: ImageUploaded | InspectionRequested) -> dict[str, Any]:
        """Fields that every output of this stage carries."""
        fields = result_fields(self.name, event, self._parts.clock.now())
        return fields | {"subject": _subject(event)}

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
