"""State of the stages as compacted facts: the newest of a key counts, `removed` ends it.

Removal is a value, never a null: a snapshot read past a compacted tombstone would bring
the record back (architecture.md section 5).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.event import Event
from schemas.subject import ImageRef, ProductCode, Sha256, UtcDatetime, WireModel

Mode = Literal["auto", "on_request"]


class Policy(WireModel):
    """Whether stages run unasked; the plant's default is on request."""

    anomaly: Mode = "on_request"
    report: Mode = "on_request"


class ProductConfigured(Event):
    """A product's line settings. `revision` counts from 1 and locks optimistically.

    `threshold` overrides the bank's calibrated one; `review_band` is the width below and
    above the threshold, as factors of it (0.95, 1.05), within which a person decides.
    """

    product: ProductCode
    display_name: str
    display_name_en: str | None = None
    active_bank: str | None = None
    threshold: Annotated[float, Field(gt=0)] | None = None
    review_band: tuple[float, float] | None = None
    policy: Policy = Policy()
    language: Literal["ko", "en"] = "ko"
    revision: Annotated[int, Field(ge=1)] = 1
    removed: bool = False


class BankRequested(Event):
    """Somebody asked for a memory bank from the product's normal photos."""

    product: ProductCode
    job_id: str
    requested_by: str


class BankPublished(Event):
    """An immutable memory bank lies in the object store under `prefix`."""

    product: ProductCode
    version: str
    prefix: str
    sha256: Sha256
    size_bytes: int
    model: str
    normals: int
    threshold: float
    map_threshold: float
    job_id: str | None = None
    calibration: dict[str, float | str | list[float]] = Field(default_factory=dict)
    removed: bool = False


class CaseRegistered(Event):
    """A past case with its decision: what the similarity search finds."""

    case_id: str
    product: ProductCode
    image: ImageRef
    image_id: str | None = None
    part_id: str | None = None
    defect_type: str | None = None
    decision: Literal["ok", "ng"] = "ng"
    decided_at: UtcDatetime | None = None
    action_taken: str | None = None
    removed: bool = False


class ManualPublished(Event):
    """A manual lies in the object store at `key`; every llm replica indexes it."""

    manual_id: str
    product: ProductCode
    title: str
    file_name: str
    language: Literal["ko", "en"] | None = None
    revision: str | None = None
    content_type: str
    key: str
    sha256: Sha256
    size_bytes: int
    removed: bool = False
