"""Is this an image we can inspect? Answered from headers and structure; nothing is decoded in full.

A file that passes may still hold broken pixels; the stage that decodes it finds out.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from pipeline.errors import RefusedError
from pipeline.jpeg_scan import read_scans

MAX_BYTES = 50_000_000
MAX_PIXELS = 100_000_000

# Beyond this no camera exists: the header lies, so that decoding eats the memory.
_BOMB_PIXELS = 2_000_000_000
_EXIF_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"RIFF": "WEBP",
}
_CONTENT_TYPE = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "WEBP": "image/webp",
}
_DEPTHS = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"}
    | {"I;16", "I;16L", "I;16B", "I;16N", "I"}
)

# Pillow's own limit only warns, and at another size; `_read_header` checks before decoding.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the header tells; width and height after EXIF rotation."""

    width: int
    height: int
    content_type: str


def check_image(
    data: bytes, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> ImageFacts:
    """Return the facts of an image file.

    Raises:
        RefusedError: 413 `file_too_large`, `too_many_pixels`, `decompression_bomb`;
            415 `empty_file`, `not_an_image`, `unsupported_depth`;
            422 `truncated_image`, `corrupt_image`.
    """
    if not data:
        raise RefusedError(415, "empty_file", "the file has 0 bytes; send it again when complete")
    if len(data) > max_bytes:
        detail = f"the file has {len(data)} bytes; at most {max_bytes} are accepted"
        raise RefusedError(413, "file_too_large", detail)
    kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)
    if kind is None or (kind == "WEBP" and data[8:12] != b"WEBP"):
        detail = "the bytes are no JPEG, PNG, BMP, TIFF or WebP picture whatever the name; send one"
        raise RefusedError(415, "not_an_image", detail)
    facts = _read_header(data, kind, max_pixels)
    if _is_truncated(data, kind):
        detail = "the picture ends too early; it was cut off on its way, send it again"
        raise RefusedError(422, "truncated_image", detail)
    return facts


def _read_header(data: bytes, kind: str, max_pixels: int) -> ImageFacts:
    try:
        with Image.open(io.BytesIO(data), formats=(kind,)) as image:
            width, height, mode = image.width, image.height, image.mode
            _check_pixels(width, height, max_pixels)
            turned = _exif_of(image, data).get(_EXIF_ORIENTATION) in _QUARTER_TURNS
            content_type = _CONTENT_TYPE[image.format or kind]
    except RefusedError:
        raise
    except UnidentifiedImageError:
        detail = "the picture's header is broken or cut off; send the file again"
        raise RefusedError(422, "corrupt_image", detail) from None
    except Exception as error:  # noqa: BLE001 - Pillow raises whatever it meets in broken bytes
        if "too large" in str(error):  # compressed text or profile chunks that explode
            detail = "a compressed part of the header explodes; export the picture anew"
            raise RefusedError(413, "decompression_bomb", detail) from None
        detail = f"the picture's header cannot be read: {error}"
        raise RefusedError(422, "corrupt_image", detail) from None
    if mode not in _DEPTHS:
        detail = f"pixels of kind {mode} are not supported; export 8 or 16 bit per channel"
        raise RefusedError(415, "unsupported_depth", detail)
    return ImageFacts(height if turned else width, width if turned else height, content_type)


def _exif_of(image: Image.Image, data: bytes) -> Image.Exif:
    if image.format == "PNG" and "exif" not in image.info:
        # `getexif` of Pillow's PNG decodes all pixels to see what comes after them.
        image.info["exif"] = _late_exif(data)
    return Image.Image.getexif(image)


def _late_exif(png: bytes) -> bytes | None:
    """Return the body of the last eXIf chunk; its check sum tells it from pixels that look so."""
    name = png.rfind(b"eXIf")
    if name < 4:
        return None
    end = name + 4 + int.from_bytes(png[name - 4 : name], "big")
    chunk, check = png[name:end], png[end : end + 4]
    return chunk[4:] if zlib.crc32(chunk).to_bytes(4, "big") == check else None


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    pixels = width * height
    if pixels > _BOMB_PIXELS:
        detail = f"the header claims {width} x {height} pixels, which no camera makes"
        raise RefusedError(413, "decompression_bomb", detail)
    if pixels > max_pixels:
        detail = f"{width} x {height} pixels; at most {max_pixels} are accepted, send a part of it"
        raise RefusedError(413, "too_many_pixels", detail)


def _is_truncated(data: bytes, kind: str) -> bool:
    """Whether the end that the format prescribes is missing."""
    if kind == "JPEG":
        return _jpeg_is_truncated(data) or _jpeg_lacks_pixels(data)
    if kind == "PNG":
        return data.rfind(b"IEND\xaeB`\x82") < 0
    if kind == "WEBP":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    if kind == "BMP":
        return _bmp_is_truncated(data)
    return _tiff_is_truncated(data)


def _jpeg_is_truncated(data: bytes) -> bool:
    """Whether no end mark follows the first scan.

    The header's segments are stepped over, because an embedded thumbnail has an end mark too;
    what follows the picture's own end (cameras append data) does not matter.
    """
    place = 2
    while data[place : place + 1] == b"\xff" and place + 1 < len(data):
        marker = data[place + 1]
        if marker == 0xDA:
            return data.find(b"\xff\xd9", place) < 0
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if place + 2 > len(data):
            return True
    return True


def _jpeg_lacks_pixels(data: bytes) -> bool:
    """Whether an end mark hides that pixels are missing; decoders would paint them grey."""
    scans = read_scans(data)
    if scans.probe is None:
        return scans.lacks_scans
    try:
        with Image.open(io.BytesIO(scans.probe), formats=("JPEG",)) as image:
            image.draft("L", (1, 1))  # an eighth of the size: bytes are read, few pixels made
            image.load()
    except OSError:
        return True
    return False


def _bmp_is_truncated(data: bytes) -> bool:
    offset, header_bytes, width, height = struct.unpack_from("<Iiii", data, 10)
    if header_bytes < 40:
        return False
    bits, compression = struct.unpack_from("<HI", data, 28)
    row_bytes = (abs(width) * bits + 31) // 32 * 4
    return compression in (0, 3) and len(data) < offset + row_bytes * abs(height)


def _tiff_is_truncated(data: bytes) -> bool:
    """Whether a strip or tile of the first picture lies beyond the end."""
    with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
        tags = getattr(image, "tag_v2", {})
        for offsets, counts in ((273, 279), (324, 325)):
            pairs = zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False)
            if any(offset + count > len(data) for offset, count in pairs):
                return True
    return False
