"""Pictures: bytes to pixels and back, by Pillow and numpy. Nothing here touches disk or network."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageDraw, ImageOps

from pipeline.errors import PoisonError
from pipeline.jpeg_scan import read_scans

MAX_BYTES = 50_000_000
MAX_PIXELS = 100_000_000
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")  # a JPEG of several pictures opens as JPEG, too

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\x00", b"MM\x00*", b"RIFF")
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_TIFF_BITS_PER_SAMPLE = 258
_TIFF_MAX_SAMPLE = 281
_OUTLINE = (213, 94, 0)

# Pillow's own limit warns at 89 megapixels, below ours; `_open` checks before any pixel is decoded.
Image.MAX_IMAGE_PIXELS = None


def decode_rgb(
    data: bytes,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    decode_jpeg: Callable[[bytes], NDArray[np.uint8] | None] | None = None,
) -> NDArray[np.uint8]:
    """Decode a picture as people see it.

    EXIF rotation is applied. Grey of more than 8 bits is scaled by its full range (or by the
    range its TIFF header names), never by its content, so that equal light gives equal pixels.
    Transparency is laid over white. CMYK and palettes become RGB.

    Args:
        data: a JPEG, PNG, BMP, TIFF or WebP file; of several frames the first counts.
        max_bytes: largest file accepted.
        max_pixels: largest width x height accepted, checked before decoding.
        decode_jpeg: a faster decoder for usual JPEGs, of the same pixels (adapters/fast_jpeg.py);
            what it answers None to is Pillow's.

    Returns:
        (H, W, 3) uint8 RGB, contiguous and writable.

    Raises:
        PoisonError: `not_an_image`, `image_too_large`, `unsupported_image`, `corrupt_image` or
            `truncated_image`.
    """
    image = _open(data, max_bytes=max_bytes, max_pixels=max_pixels)
    if image.format in ("JPEG", "MPO"):
        scans = read_scans(data)
        if scans.lacks_scans:
            raise _truncated()
        if scans.probe is not None:
            if decode_jpeg is not None and image.mode in ("RGB", "L") and _stands_upright(image):
                pixels = decode_jpeg(scans.probe)
                if pixels is not None:
                    return pixels
            image = _decode_probe(scans.probe)
    with _decoding():
        upright = _upright(image)
        if upright.mode in _DEEP_GREY:
            return _from_deep_grey(upright, white=_white_level(image))
        return np.array(_as_rgb(upright), dtype=np.uint8, order="C")


def thumbnail(data: bytes, *, side_px: int = 320, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return a JPEG whose long side is at most `side_px` pixels, upright.

    Raises:
        PoisonError: as `decode_rgb`.
    """
    image = _open(data, max_bytes=MAX_BYTES, max_pixels=max_pixels)
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        with _decoding():
            # JPEG can be decoded at 1/2, 1/4 or 1/8 size, which makes this several times faster.
            image.draft(image.mode, (side_px * 2, side_px * 2))
            small = ImageOps.exif_transpose(image).convert("RGB")
    else:
        small = Image.fromarray(decode_rgb(data, max_pixels=max_pixels))
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    return _as_jpeg(small)


def overlay(
    data: bytes,
    heatmap_png: bytes | None,
    *,
    outlines: Sequence[Sequence[tuple[int, int]]] = (),
    opacity: float = 1.0,
    side_px: int = 1600,
) -> bytes:
    """Lay a heatmap over its picture and draw the regions' outlines.

    Args:
        data: the original picture.
        heatmap_png: RGBA, any size, of the same field of view; its alpha says where it shows.
        outlines: closed contours as (x, y) in original pixels after EXIF rotation.
        opacity: 0 to 1, multiplies the heatmap's alpha.
        side_px: long side of the result.

    Returns:
        A JPEG.

    Raises:
        PoisonError: as `decode_rgb`, for either picture.
    """
    picture = Image.fromarray(decode_rgb(data))
    original_width = picture.width
    picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    if heatmap_png is not None:
        picture = _blend(picture, heatmap_png, opacity)
    draw = ImageDraw.Draw(picture)
    factor = picture.width / original_width
    width_px = max(2, side_px // 500)
    for outline in outlines:
        points = [(x * factor, y * factor) for x, y in outline]
        if len(points) > 1:
            draw.line([*points, points[0]], fill=_OUTLINE, width=width_px, joint="curve")
    return _as_jpeg(picture)


def _blend(picture: Image.Image, heatmap_png: bytes, opacity: float) -> Image.Image:
    heat = _open(heatmap_png, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS)
    with _decoding():
        rgba = heat.convert("RGBA").resize(picture.size, Image.Resampling.BILINEAR)
    strength = min(1.0, max(0.0, opacity))
    rgba.putalpha(rgba.getchannel("A").point([round(alpha * strength) for alpha in range(256)]))
    return Image.alpha_composite(picture.convert("RGBA"), rgba).convert("RGB")


def _open(data: bytes, *, max_bytes: int, max_pixels: int) -> Image.Image:
    """Read the header alone and refuse what must not be decoded."""
    if len(data) > max_bytes:
        raise PoisonError("image_too_large", f"{len(data)} bytes; the limit is {max_bytes}")
    if not data.startswith(_MAGIC):
        names = "JPEG, PNG, BMP, TIFF or WebP"
        raise PoisonError("not_an_image", f"these bytes are no {names} file")
    with _decoding():
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height}"
        raise PoisonError("image_too_large", f"{size} pixels; the limit is {max_pixels}")
    return image


def _decode_probe(probe: bytes) -> Image.Image:
    """Decode a file in which missing bytes are an error (pipeline/jpeg_scan.py).

    Raises:
        PoisonError: `truncated_image`: what is missing would be painted grey, and judged so.
    """
    try:
        whole = Image.open(io.BytesIO(probe), formats=("JPEG",))
        whole.load()
    except OSError:
        raise _truncated() from None
    return whole


def _upright(image: Image.Image) -> Image.Image:
    # Pillow copies a picture that already stands upright, too.
    return image if _stands_upright(image) else ImageOps.exif_transpose(image)


def _stands_upright(image: Image.Image) -> bool:
    with _decoding():
        return bool(image.getexif().get(ExifTags.Base.Orientation, 1) == 1)


def _truncated() -> PoisonError:
    message = "pixels are missing: the file was cut off on its way; send it again"
    return PoisonError("truncated_image", message)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise PoisonError("unsupported_image", "floating point pixels; export 8 or 16 bit")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _white_level(image: Image.Image) -> int:
    """Return the pixel value that means white, from the header alone."""
    tags: Any = getattr(image, "tag_v2", {})
    for value in (tags.get(_TIFF_MAX_SAMPLE), _bits_to_white(tags.get(_TIFF_BITS_PER_SAMPLE))):
        level = value[0] if isinstance(value, tuple) and value else value
        if isinstance(level, int) and 255 <= level <= 65_535:
            return level
    return 65_535


def _bits_to_white(bits: object) -> int | None:
    first = bits[0] if isinstance(bits, tuple) and bits else bits
    return (1 << first) - 1 if isinstance(first, int) and 8 < first <= 16 else None


def _from_deep_grey(image: Image.Image, *, white: int) -> NDArray[np.uint8]:
    """Scale (H, W) grey in [0, white] to (H, W, 3) uint8."""
    grey = np.asarray(image)
    if grey.size and (int(grey.max()) > 65_535 or int(grey.min()) < 0):
        raise PoisonError("unsupported_image", "32-bit pixels; export 8 or 16 bit")
    scaled = grey.astype(np.uint32) * 255 + white // 2
    eight_bit = np.minimum(scaled // white, 255).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(eight_bit[:, :, None], 3, axis=2))


def _as_jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88)
    return out.getvalue()


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except (PoisonError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise whatever they meet in broken bytes
        raise PoisonError("corrupt_image", f"the picture cannot be decoded: {error}") from None
