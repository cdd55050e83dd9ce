"""What the console's routers need from the rest, handed in by app/."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

from pipeline.errors import RefusedError
from pipeline.line import Arrivals
from pipeline.ports import BlobStore, Catalog, Clock, Inspections, Outbox
from schemas.event import act_event_id
from schemas.subject import check_product_code


class ImageFacts(Protocol):
    """What a picture's header tells; width and height after EXIF rotation."""

    @property
    def width(self) -> int:
        """Pixels."""
        ...

    @property
    def height(self) -> int:
        """Pixels."""
        ...

    @property
    def content_type(self) -> str:
        """Such as `image/jpeg`."""
        ...


class DrawOverlay(Protocol):
    """Lays a heatmap over its picture and draws outlines; returns a JPEG."""

    def __call__(
        self,
        data: bytes,
        heatmap_png: bytes | None,
        *,
        outlines: Sequence[Sequence[tuple[int, int]]] = (),
    ) -> bytes:
        """Draw; outlines are (x, y) in original pixels after EXIF rotation."""
        ...


@dataclass(frozen=True, slots=True)
class Pictures:
    """Work on pixels; plain functions, run in threads.

    `check` raises RefusedError for what is no acceptable picture; the others PoisonError.
    """

    check: Callable[[bytes], ImageFacts]
    thumbnail: Callable[[bytes], bytes]
    overlay: DrawOverlay


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """What `GET /v1/system` tells of this installation."""

    version: str
    timezone: str = "Asia/Seoul"
    language: str = "ko"
    has_llm: bool = False
    upload_limit_mb: int = 50

    @property
    def zone(self) -> ZoneInfo:
        """The site's time zone."""
        return ZoneInfo(self.timezone)


# Takes a manual's bytes, file name and content type; returns the text of each page that has any,
# by its number from 1. Raises PoisonError for a file it cannot read.
ReadPages = Callable[[bytes, str, str], Mapping[int, str]]


@dataclass(frozen=True, slots=True)
class ConsoleNeeds:
    """Ports and facts; `bucket` is the name of the store's own bucket, for new references."""

    outbox: Outbox
    inspections: Inspections
    arrivals: Arrivals
    catalog: Catalog
    store: BlobStore
    clock: Clock
    pictures: Pictures
    site: SiteFacts
    bucket: str
    read_pages: ReadPages | None = None

    @property
    def max_bytes(self) -> int:
        """Largest file accepted."""
        return self.site.upload_limit_mb * 1_000_000


def act_id(scope: str, idempotency_key: str | None) -> UUID:
    """Return the event_id of a human act: the same for the same key in the same place."""
    return act_event_id(f"{scope}:{idempotency_key}") if idempotency_key else uuid4()


def checked_code(code: str) -> str:
    """Return a product code in its canonical form.

    Raises:
        RefusedError: 422 `bad_product_code`.
    """
    try:
        return check_product_code(code)
    except ValueError as error:
        raise RefusedError(422, "bad_product_code", str(error)) from None


async def known_product(catalog: Catalog, code: str) -> dict[str, object]:
    """Return a product's record.

    Raises:
        RefusedError: 404 `unknown_product`, 422 `bad_product_code`.
    """
    record = await catalog.product(checked_code(code))
    if record is None:
        detail = f"no product {code}; make it first with PUT /v1/products/{code}"
        raise RefusedError(404, "unknown_product", detail)
    return record
