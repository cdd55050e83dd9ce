"""Files that senders should not send, and odd ones that are fine, drawn by tests.plant."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image, ImageDraw

from tests.plant import draw_part

_EXIF_ORIENTATION = 0x0112
_TURNED_RIGHT = 6


def truncated_jpeg(seed: int) -> bytes:
    """The first half of a picture."""
    whole = draw_part(seed)
    return whole[: len(whole) // 2]


def corrupt_png(seed: int) -> bytes:
    """A whole file with a stain in its compressed pixels: only decoding finds out."""
    with Image.open(io.BytesIO(draw_part(seed))) as part:
        whole = bytearray(_save(part, "PNG"))
    middle = len(whole) // 2
    whole[middle : middle + 64] = bytes(64)
    return bytes(whole)


def zip_archive() -> bytes:
    """A ZIP file of one text."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("part.jpg", "no picture")
    return out.getvalue()


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _png(width: int, height: int, pixels: bytes, *chunks: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = _chunk(b"IDAT", pixels)
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body + _chunk(b"IEND", b"")


def exploding_text_png() -> bytes:
    """300 kB that become 300 MB when its comment is read."""
    comment = b"Comment\x00\x00" + zlib.compress(bytes(300_000_000), 9)
    return _png(4, 4, zlib.compress(bytes(20)), _chunk(b"zTXt", comment))


def claimed_giant_png() -> bytes:
    """A few bytes whose header claims ten gigapixels."""
    return _png(100_000, 100_000, zlib.compress(bytes(100)))


def large_png() -> bytes:
    """A true picture of 20,000 x 20,000 pixels in 50 kB."""
    out = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(out, "PNG")
    return out.getvalue()


def scratched_part(seed: int) -> Image.Image:
    """A part of 320 x 240 pixels with a dark scratch around (216, 120), right of its centre."""
    with Image.open(io.BytesIO(draw_part(seed))) as part:
        picture = part.convert("RGB")
    ImageDraw.Draw(picture).line((200, 112, 232, 128), fill=(30, 28, 26), width=6)
    return picture


def _save(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def sixteen_bit_png(picture: Image.Image) -> bytes:
    """Grey of 16 bits."""
    grey = np.asarray(picture.convert("L"), dtype=np.uint16) * 257
    return _save(Image.fromarray(grey), "PNG")


def cmyk_jpeg(picture: Image.Image) -> bytes:
    """As a print shop saves it."""
    return _save(picture.convert("CMYK"), "JPEG", quality=92)


def grey_jpeg(picture: Image.Image) -> bytes:
    """One channel."""
    return _save(picture.convert("L"), "JPEG", quality=92)


def palette_png(picture: Image.Image) -> bytes:
    """256 colours, one of them transparent."""
    image = picture.quantize(255)
    return _save(image, "PNG", transparency=255)


def alpha_png(picture: Image.Image) -> bytes:
    """RGB with a half transparent corner."""
    image = picture.convert("RGBA")
    image.paste((0, 0, 0, 128), (0, 0, 6, 6))
    return _save(image, "PNG")


def turned_jpeg(picture: Image.Image) -> bytes:
    """Stored lying on its side, with the EXIF mark that says how to set it upright."""
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = _TURNED_RIGHT
    lying = picture.transpose(Image.Transpose.ROTATE_90)
    return _save(lying, "JPEG", quality=92, exif=exif)
