"""Uploads, objects and records that no system should swallow, each with what it must end in.

Seeded: the same seed and pictures give the same poison in the same order. Every kind comes once
before one comes again.
"""

from __future__ import annotations

import hashlib
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image

from schemas.codec import MAX_VALUE_BYTES

JUDGES = ("embed", "anomaly")
READERS = ("embed", "anomaly", "record")
_LIMIT_BYTES = 50_000_000


class Upload(NamedTuple):
    """A file for `POST /v1/images`, always called .jpg.

    `refused` is the status and slug of the answer, None where the door lets it in and the
    stages bury it: `buries`, stage → reason.
    """

    kind: str
    data: bytes
    refused: tuple[int, str] | None
    buries: Mapping[str, str]
    product: str | None = None


class Planted(NamedTuple):
    """An event about an object, past every check of HTTP.

    `stored` lies at `image["key"]`, nothing does where it is None; `image` is the event's
    reference, without a bucket unless that is what is wrong.
    """

    kind: str
    stored: bytes | None
    image: Mapping[str, Any]
    buries: Mapping[str, str]
    product: str | None = None


class Noise(NamedTuple):
    """A record that is no event, put into `topic`."""

    kind: str
    topic: str
    value: bytes | None
    buries: Mapping[str, str]


Poison = Upload | Planted | Noise


@dataclass(frozen=True, slots=True)
class Poisoner:
    """Makes poison of good JPEG pictures of the product."""

    seed: int
    pictures: Sequence[bytes]
    _chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        """Start the dice."""
        dice = random.Random(self.seed)  # noqa: S311 - repeatable on purpose, no secret
        object.__setattr__(self, "_chance", dice)

    def __iter__(self) -> Iterator[Poison]:
        """Yield poison without end."""
        makers = [*_UPLOADS, *_PLANTED, *_NOISE]
        while True:
            for make in self._chance.sample(makers, len(makers)):
                yield make(self._chance, self._chance.choice(self.pictures))


Maker = Callable[[random.Random, bytes], Poison]


# -- uploads -----------------------------------------------------------------------------------
def _truncated(chance: random.Random, picture: bytes) -> Upload:
    cut = picture[: int(len(picture) * chance.uniform(0.3, 0.8))]
    return Upload("truncated", cut, (422, "truncated_image"), {})


def _empty(_: random.Random, __: bytes) -> Upload:
    return Upload("empty", b"", (415, "empty_file"), {})


def _text(chance: random.Random, _: bytes) -> Upload:
    return Upload("text", b"shift report %d\n" % chance.getrandbits(32) * 40, _NO_IMAGE, {})


def _archive(chance: random.Random, _: bytes) -> Upload:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("part.jpg", str(chance.getrandbits(64)))
    return Upload("archive", out.getvalue(), _NO_IMAGE, {})


def _giant(chance: random.Random, _: bytes) -> Upload:
    """A few bytes whose header claims ten gigapixels."""
    side = chance.randrange(90_000, 110_000)
    return Upload("bomb", _png(side, side), (413, "decompression_bomb"), {})


def _stained(chance: random.Random, picture: bytes) -> Upload:
    """A whole file with a stain in its compressed pixels: only decoding finds out."""
    data = _stain(chance, picture)
    return Upload("stained", data, None, dict.fromkeys(JUDGES, "corrupt_image"))


def _stranger(_: random.Random, picture: bytes) -> Upload:
    return Upload("unknown product", picture, (422, "unknown_product"), {}, "no-such-product")


_NO_IMAGE = (415, "not_an_image")
_UPLOADS: tuple[Maker, ...] = (_truncated, _empty, _text, _archive, _giant, _stained, _stranger)


# -- objects and events about them -------------------------------------------------------------
def _missing(chance: random.Random, picture: bytes) -> Planted:
    return _planted("missing", None, _reference(_unique(chance, picture)), "object_missing")


def _wrong_sha(chance: random.Random, picture: bytes) -> Planted:
    data = _unique(chance, picture)
    reference = _reference(data) | {"sha256": hashlib.sha256(data + b"!").hexdigest()}
    return _planted("wrong sha256", data, reference, "sha256_mismatch")


def _swapped(chance: random.Random, picture: bytes) -> Planted:
    """Another whole picture of the very same size lies where the event points."""
    said = _unique(chance, picture)
    lies = picture + bytes(len(said) - len(picture))
    return _planted("swapped", lies, _reference(said), "sha256_mismatch")


def _wrong_size(chance: random.Random, picture: bytes) -> Planted:
    data = _unique(chance, picture)
    return _planted("wrong size", data, _resized(data, len(data) + 1), "size_mismatch")


def _too_large(chance: random.Random, picture: bytes) -> Planted:
    data = _unique(chance, picture)
    return _planted("too large", data, _resized(data, _LIMIT_BYTES + 1), "object_too_large")


def _foreign(chance: random.Random, picture: bytes) -> Planted:
    data = _unique(chance, picture)
    reference = _reference(data) | {"bucket": "/etc"}
    return _planted("foreign bucket", data, reference, "bucket_not_allowed")


def _climbing(chance: random.Random, picture: bytes) -> Planted:
    reference = _reference(_unique(chance, picture)) | {"key": "images/../../../etc/passwd"}
    return _planted("climbing key", None, reference, "bad_object_key")


def _no_picture(chance: random.Random, _: bytes) -> Planted:
    data = b"no picture %d" % chance.getrandbits(64)
    return _planted("object of text", data, _reference(data), "not_an_image")


def _half(chance: random.Random, picture: bytes) -> Planted:
    data = picture[: int(len(picture) * chance.uniform(0.3, 0.7))]
    return _planted("half an object", data, _reference(data), "truncated_image")


def _orphan(chance: random.Random, picture: bytes) -> Planted:
    data = _unique(chance, picture)
    buries = dict.fromkeys(JUDGES, "unknown_product")
    return Planted("event of no product", data, _reference(data), buries, "no-such-product")


_PLANTED: tuple[Maker, ...] = (
    _missing, _wrong_sha, _swapped, _wrong_size, _too_large, _foreign, _climbing, _no_picture,
    _half, _orphan,
)  # fmt: skip


# -- records that are no events ----------------------------------------------------------------
def _noise(kind: str, value: bytes | None) -> Maker:
    def make(chance: random.Random, _: bytes) -> Noise:
        # Different each time, so that no two of them can be taken for one.
        stamp = b"%d" % chance.getrandbits(64)
        told = None if value is None else value.replace(b"STAMP", stamp)
        return Noise(kind, "images.uploaded", told, dict.fromkeys(READERS, kind))

    return make


def _empty_verdict(chance: random.Random, _: bytes) -> Noise:
    value = b'{"stamp": %d}' % chance.getrandbits(64)
    return Noise("no verdict", "images.scored", value, dict.fromkeys(("llm", "record"), "schema"))


_NOISE: tuple[Maker, ...] = (
    _noise("null_value", None),
    _noise("oversized_value", b'{"STAMP": "%s"}' % (b"x" * MAX_VALUE_BYTES)),
    _noise("not_json", b"\xff\xd8\xff\xe0 a picture, not an event STAMP"),
    _noise("schema", b'{"subject": {"product": "../etc"}, "stamp": STAMP}'),
    _empty_verdict,
)
KINDS = len(_UPLOADS) + len(_PLANTED) + len(_NOISE)


def _planted(kind: str, stored: bytes | None, reference: Mapping[str, Any], reason: str) -> Planted:
    return Planted(kind, stored, reference, dict.fromkeys(JUDGES, reason))


def _reference(data: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(data).hexdigest()
    return {"key": f"images/{sha256}", "sha256": sha256, "size_bytes": len(data)}


def _resized(data: bytes, size_bytes: int) -> dict[str, Any]:
    return _reference(data) | {"size_bytes": size_bytes}


def _unique(chance: random.Random, picture: bytes) -> bytes:
    """The picture under a digest of its own: decoders ignore what follows a JPEG's end."""
    return picture + b"%020d" % chance.getrandbits(64)


def _stain(chance: random.Random, picture: bytes) -> bytes:
    with Image.open(io.BytesIO(picture)) as image:
        out = io.BytesIO()
        image.convert("L").resize((160, 120)).save(out, "PNG")
    whole = bytearray(out.getvalue())
    middle = len(whole) // 2 + chance.randrange(-200, 200)
    whole[middle : middle + 64] = bytes(64)
    return bytes(whole)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _png(width: int, height: int) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = _chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + _chunk(b"IEND", b"")
