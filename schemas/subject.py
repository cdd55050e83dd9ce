"""What an event is about: one capture of one part (interfaces.md section 1)."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

Request = Literal["auto", "force", "skip"]
TimeQuality = Literal["device", "server", "assumed"]
Purpose = Literal["production", "golden", "setup", "rework", "simulated"]

# Letters and digits of any script, "_" and "-": nothing a path could be built from.
_PRODUCT_CODE = re.compile(r"[\w-]{1,64}", re.UNICODE)


class WireModel(BaseModel):
    """A frozen part of a message; fields this version does not know are kept and passed on."""

    model_config = ConfigDict(frozen=True, extra="allow", ser_json_timedelta="float")


def to_utc(moment: datetime) -> datetime:
    """Return the same instant with UTC as its zone."""
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


def check_product_code(code: str) -> str:
    """Return the NFC form of a product code, or raise ValueError saying what is allowed."""
    code = unicodedata.normalize("NFC", code)
    if not _PRODUCT_CODE.fullmatch(code):
        message = "a product code is 1-64 letters or digits of any script, '_' or '-'"
        raise ValueError(message)
    return code


UtcDatetime = Annotated[AwareDatetime, AfterValidator(to_utc)]
ProductCode = Annotated[str, AfterValidator(check_product_code)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ImageId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class ImageRef(WireModel):
    """Where the bytes of an image lie (claim check: pixels never travel in Kafka)."""

    bucket: str
    key: str
    sha256: Sha256
    size_bytes: Annotated[int, Field(gt=0)]
    width: Annotated[int, Field(gt=0)] | None = None
    height: Annotated[int, Field(gt=0)] | None = None
    content_type: str | None = None


class Requested(WireModel):
    """What the sender asked of the stages; `auto` leaves it to the product's policy."""

    anomaly: Request = "auto"
    report: Request = "auto"


class Subject(WireModel):
    """Identity of an image, carried by every event about it.

    `captured_at` is the device's time when `time_quality` is `device`, else the server's.
    A label in a file name is no part of it: no verdict may depend on one.
    """

    image_id: ImageId
    product: ProductCode
    source: str | None = None
    station: str | None = None
    line: str | None = None
    part_id: str | None = None
    lot_id: str | None = None
    view: str | None = None
    attempt: Annotated[int, Field(ge=1)] = 1
    captured_at: UtcDatetime
    received_at: UtcDatetime
    time_quality: TimeQuality = "device"
    purpose: Purpose = "production"
    is_historical: bool = False
    image: ImageRef
    requested: Requested = Requested()

    @property
    def partition_key(self) -> str:
        """Kafka key: order holds per station, else source, else product."""
        return self.station or self.source or self.product


def rfc3339_ms(moment: datetime) -> str:
    """Format an aware time as RFC 3339 UTC with milliseconds and `Z`."""
    return to_utc(moment).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def image_id(  # noqa: PLR0913 - the seven parts of the identity, in the order of interfaces.md section 1
    *,
    product: str,
    sha256: str,
    source: str | None = None,
    part_id: str | None = None,
    view: str | None = None,
    captured_at: datetime | None = None,
    idempotency_key: str | None = None,
) -> str:
    """Compute the id of one capture: the first 32 hex digits of a sha256 over its identity.

    `captured_at` and the other optional parts are what the sender gave: absent means null.
    The same request sent twice therefore gives the same id.
    """
    parts = [
        product,
        source,
        part_id,
        view,
        None if captured_at is None else rfc3339_ms(captured_at),
        idempotency_key,
        sha256,
    ]
    canonical = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    text = unicodedata.normalize("NFC", canonical)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
