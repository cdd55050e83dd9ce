"""The one way in: check, hash, reserve, store, accept (architecture.md section 2).

    reserve (row `storing`) → put + fsync → append (row `accepted` + outbox row) → relay

A process that dies between two steps leaves a `storing` row or nothing; the sender's second try
or the sweep finishes it. Whatever happens, one capture is one image with one event.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, Protocol
from uuid import uuid4

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from pipeline.errors import RefusedError, StorageFullError, TransientError
from pipeline.ports import BlobStore, Catalog, Clock, Outbox
from producers.image_check import MAX_BYTES, MAX_PIXELS, ImageFacts, check_image
from schemas.event import act_event_id, uploaded_event_id
from schemas.images import ImageUploaded, InspectionRequested
from schemas.subject import (
    ImageRef,
    ProductCode,
    Purpose,
    Request,
    Requested,
    Subject,
    TimeQuality,
    image_id,
    to_utc,
)

logger = logging.getLogger(__name__)

# Below this size checking and hashing take less than a hop to a thread (streaming.md section 10).
_INLINE_BYTES = 128_000
_KNOWN_FOR_S = 5.0


def _nfc(text: str) -> str | None:
    return unicodedata.normalize("NFC", text).strip() or None


_Name = Annotated[str, Field(max_length=200), AfterValidator(_nfc)]


class Capture(BaseModel):
    """What a sender says of one image; empty names count as absent.

    `captured_at` is the device's time unless `time_quality` says otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    product: ProductCode
    source: _Name | None = None
    station: _Name | None = None
    line: _Name | None = None
    part_id: _Name | None = None
    lot_id: _Name | None = None
    view: _Name | None = None
    captured_at: AwareDatetime | None = None
    purpose: Purpose = "production"
    anomaly: Request = "auto"
    report: Request = "auto"
    idempotency_key: Annotated[str, Field(max_length=1000)] | None = None
    time_quality: TimeQuality = "device"
    is_historical: bool = False
    label: str | None = None


class Accepted(NamedTuple):
    """The answer to a sender.

    `duplicate`: this very capture was accepted before. `duplicate_bytes`: another capture of
    equal bytes was, as a frozen or black camera makes them.
    """

    image_id: str
    duplicate: bool
    duplicate_bytes: bool


@dataclass(frozen=True, slots=True)
class IngestLimits:
    """How large an image may be."""

    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS


class FindImage(Protocol):
    """Looks an image up as `Inspections.get` does."""

    async def __call__(self, image_id: str) -> dict[str, Any] | None:
        """Return the image's record, None if unknown."""
        ...


@dataclass(frozen=True, slots=True)
class IngestPorts:
    """What ingest needs; `bucket` is the store's own, `wake` tells the relay of new rows.

    `check_room` raises RefusedError while no image can be taken (producers/room.py).
    """

    store: BlobStore
    bucket: str
    outbox: Outbox
    catalog: Catalog
    find_image: FindImage
    clock: Clock
    wake: Callable[[], None] = field(default=lambda: None)
    check_room: Callable[[], None] = field(default=lambda: None)


class Ingest:
    """Accepts images from every kind of sender."""

    def __init__(self, ports: IngestPorts, limits: IngestLimits | None = None) -> None:
        """Only assign."""
        self._ports = ports
        self.limits = limits or IngestLimits()
        self._known: dict[str, float] = {}

    def check_room(self) -> None:
        """Refuse early, before an upload is read.

        Raises:
            RefusedError: 503 or 507 with `retry_after_s`.
        """
        self._ports.check_room()

    async def accept(self, data: bytes, capture: Capture) -> Accepted:
        """Take one image; when this returns, it is stored and will be published.

        Raises:
            RefusedError: 413, 415 or 422 for what the sender must correct, 503 or 507 with
                `retry_after_s` while the store or the database is away or full.
        """
        self.check_room()
        try:
            await self._check_product(capture.product)
            facts, sha256 = await self._examine(data)
            event = self._uploaded(capture, data, facts, sha256)
            return await self._store(event, data, capture)
        except StorageFullError as error:
            logger.error("no space left for images", extra={"action": "ingest_full"})  # noqa: TRY400 - the trace adds nothing
            detail = (
                f"the server's disk is full ({error.dependency}); an administrator must free space"
            )
            raise RefusedError(507, "storage_full", detail, retry_after_s=30) from error
        except TransientError as error:
            dependency = getattr(error, "dependency", "database")
            fields = {"action": "ingest_away", "dependency": dependency}
            logger.warning("cannot accept images, a dependency is away", extra=fields)
            detail = f"the server cannot keep images now ({dependency} is away); send it again"
            raise RefusedError(503, f"{dependency}_away", detail, retry_after_s=2) from error

    async def _check_product(self, code: str) -> None:
        now_s = self._ports.clock.monotonic()
        if self._known.get(code, 0.0) > now_s:
            return
        self._known.pop(code, None)
        if await self._ports.catalog.product(code) is None:
            detail = (
                f"product: {code} is not set up; add it on the page /setup, or correct the code"
            )
            raise RefusedError(422, "unknown_product", detail)
        # Only known codes are kept, so that nobody fills the memory with inventions.
        self._known[code] = now_s + _KNOWN_FOR_S

    async def _examine(self, data: bytes) -> tuple[ImageFacts, str]:
        def examine() -> tuple[ImageFacts, str]:
            limits = self.limits
            facts = check_image(data, max_bytes=limits.max_bytes, max_pixels=limits.max_pixels)
            return facts, hashlib.sha256(data).hexdigest()

        if len(data) <= _INLINE_BYTES:
            return examine()
        return await asyncio.to_thread(examine)

    def _uploaded(
        self, capture: Capture, data: bytes, facts: ImageFacts, sha256: str
    ) -> ImageUploaded:
        now = self._ports.clock.now()
        identity = image_id(
            product=capture.product,
            sha256=sha256,
            source=capture.source,
            part_id=capture.part_id,
            view=capture.view,
            captured_at=capture.captured_at,
            idempotency_key=capture.idempotency_key,
        )
        named = capture.model_dump(
            include={"product", "source", "station", "line", "part_id", "lot_id", "view"}
            | {"purpose", "is_historical"}
        )
        subject = Subject(
            image_id=identity,
            captured_at=to_utc(capture.captured_at) if capture.captured_at else now,
            received_at=now,
            time_quality=capture.time_quality if capture.captured_at else "server",
            image=ImageRef(
                bucket=self._ports.bucket,
                key=f"images/{sha256}",
                sha256=sha256,
                size_bytes=len(data),
                width=facts.width,
                height=facts.height,
                content_type=facts.content_type,
            ),
            requested=Requested(anomaly=capture.anomaly, report=capture.report),
            **named,
        )
        return ImageUploaded(
            event_id=uploaded_event_id(identity),
            occurred_at=now,
            subject=subject,
            label=capture.label,
        )

    async def _store(self, event: ImageUploaded, data: bytes, capture: Capture) -> Accepted:
        ports, subject = self._ports, event.subject
        image = subject.image
        # Looked up beside the reservation, not after it: each costs a hop to a thread.
        reserved, found = await asyncio.gather(
            ports.outbox.reserve(event), ports.store.stat(image.key), return_exceptions=True
        )
        if isinstance(reserved, BaseException):
            raise reserved
        if reserved == "accepted":
            await self._ask_again(event, capture)
            return Accepted(subject.image_id, duplicate=True, duplicate_bytes=False)
        if isinstance(found, BaseException):
            raise found
        known = reserved == "new" and found is not None
        # Written even when it is there: that renews its age, so that no clean-up by age takes
        # the bytes from under an image accepted today, and it heals an object that was damaged.
        content_type = image.content_type or "application/octet-stream"
        await ports.store.put(image.key, data, content_type=content_type)
        (was_new,) = await ports.outbox.append([event])
        ports.wake()
        fields = {"action": "image_accepted", "image_id": subject.image_id}
        logger.info("image accepted", extra=fields)
        return Accepted(subject.image_id, duplicate=not was_new, duplicate_bytes=known)

    async def _ask_again(self, event: ImageUploaded, capture: Capture) -> None:
        """`force` on an image that is known asks for a new inspection of it."""
        if "force" not in (capture.anomaly, capture.report):
            return
        known = await self._ports.find_image(event.subject.image_id)
        subject = Subject.model_validate(known["subject"]) if known else event.subject
        key = capture.idempotency_key
        anomaly = capture.anomaly == "force"
        request = InspectionRequested(
            # A sender's retry with the same key asks once; without a key every call is a wish.
            event_id=act_event_id(f"inspect:{key}:{subject.image_id}") if key else uuid4(),
            occurred_at=self._ports.clock.now(),
            subject=subject,
            stage="anomaly" if anomaly else "llm",
            requested_by=capture.source or "upload",
            reason="sent again with force",
            explain=anomaly and capture.report == "force",
        )
        await self._ports.outbox.append([request])
        self._ports.wake()
