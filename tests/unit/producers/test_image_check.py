from __future__ import annotations

import io
import struct
import zipfile
import zlib
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import RefusedError
from producers.image_check import check_image
from tests.ingest_rig import picture


def png_claiming(width: int, height: int) -> bytes:
    """A well-formed PNG of a few hundred bytes whose header names any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def zip_file() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.jpg", b"not a picture")
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_every_supported_kind_passes_with_its_size_and_type(kind: str) -> None:
    facts = check_image(picture(kind=kind, side_px=40))
    assert (facts.width, facts.height) == (40, 40)
    assert facts.content_type == f"image/{kind.lower()}"


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "P", "RGBA", "I;16"])
def test_every_depth_that_can_be_judged_passes(mode: str) -> None:
    out = io.BytesIO()
    Image.new(mode, (20, 10)).save(out, "TIFF")
    assert check_image(out.getvalue()).width == 20


def test_width_and_height_are_those_after_the_exif_rotation() -> None:
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(out, "JPEG", exif=exif)
    facts = check_image(out.getvalue())
    assert (facts.width, facts.height) == (20, 40)


def test_a_rotation_that_a_png_names_after_its_pixels_counts() -> None:
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.effect_noise((40, 20), 80).save(out, "PNG", exif=exif)
    data = out.getvalue()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    moved = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    for one in (data, moved):
        facts = check_image(one)
        assert (facts.width, facts.height) == (20, 40)


def test_pixels_are_left_to_the_stages_that_decode_them() -> None:
    data = bytearray(picture(kind="PNG", side_px=64))
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    assert check_image(bytes(data)).width == 64


def test_what_a_camera_appends_after_the_picture_does_not_matter() -> None:
    assert check_image(picture(kind="JPEG") + b"\0" * 500 + b"maker's notes").width == 32


@pytest.mark.parametrize(
    ("data", "status", "slug"),
    [
        (b"", 415, "empty_file"),
        (b"just text, named picture.jpg", 415, "not_an_image"),
        (zip_file(), 415, "not_an_image"),
        (b"RIFF\x10\0\0\0WAVEfmt ", 415, "not_an_image"),
        (png_claiming(20_000, 20_000), 413, "too_many_pixels"),
        (png_claiming(1_000_000, 1_000_000), 413, "decompression_bomb"),
        (b"\xff\xd8\xff\xe0", 422, "corrupt_image"),
        (b"\x89PNG\r\n\x1a\n", 422, "corrupt_image"),
        (b"BM", 422, "corrupt_image"),
    ],
)
def test_each_trouble_has_its_own_name_and_says_what_to_do(
    data: bytes, status: int, slug: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        check_image(data)
    assert (caught.value.status, caught.value.slug) == (status, slug)
    assert len(caught.value.detail) > 20


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("part", [0.5, 0.95])
def test_a_picture_cut_off_on_its_way_is_told_from_a_whole_one(kind: str, part: float) -> None:
    data = picture(kind=kind, side_px=64)
    with pytest.raises(RefusedError) as caught:
        check_image(data[: int(len(data) * part)])
    assert caught.value.status == 422
    assert caught.value.slug in ("truncated_image", "corrupt_image")


def test_a_truncated_jpeg_with_a_whole_thumbnail_inside_is_still_truncated() -> None:
    thumbnail = picture(kind="JPEG", side_px=16)
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x9286] = thumbnail  # any place inside the header will do
    Image.effect_noise((64, 64), 80).save(out, "JPEG", exif=exif)
    data = out.getvalue()
    assert b"\xff\xd9" in data[:-100]
    assert check_image(data).width == 64
    with pytest.raises(RefusedError) as caught:
        check_image(data[:-50])
    assert caught.value.slug == "truncated_image"


def test_a_file_over_the_limit_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(RefusedError) as caught:
        check_image(picture(side_px=64), max_bytes=1000)
    assert (caught.value.status, caught.value.slug) == (413, "file_too_large")


def test_a_text_chunk_that_explodes_is_a_bomb() -> None:
    head, tail = png_claiming(10, 10)[:33], png_claiming(10, 10)[33:]
    body = b"key\0\0" + zlib.compress(b"\0" * 5_000_000)
    crc = struct.pack(">I", zlib.crc32(b"zTXt" + body))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + crc
    with pytest.raises(RefusedError) as caught:
        check_image(head + chunk + tail)
    assert (caught.value.status, caught.value.slug) == (413, "decompression_bomb")


def test_floating_point_pixels_are_refused_with_the_way_out() -> None:
    out = io.BytesIO()
    Image.new("F", (10, 10)).save(out, "TIFF")
    with pytest.raises(RefusedError, match="8 or 16 bit") as caught:
        check_image(out.getvalue())
    assert caught.value.slug == "unsupported_depth"


def cut_inside(jpeg: bytes, part: float) -> bytes:
    """Lose the rest of the pixels, and set the end mark all the same."""
    pixels = jpeg.rindex(b"\xff\xda") + 14
    return jpeg[: pixels + int((len(jpeg) - pixels) * part)].rstrip(b"\xff") + b"\xff\xd9"


def noisy_jpeg(**options: object) -> bytes:
    rng = np.random.default_rng(7)
    pixels = rng.integers(0, 256, (90, 130, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", **options)
    return out.getvalue()


JPEG_KINDS: list[dict[str, object]] = [
    {"quality": 40}, {"quality": 95, "subsampling": 0}, {"optimize": True},
    {"restart_marker_blocks": 4}, {"progressive": True},
]  # fmt: skip


@pytest.mark.parametrize("options", JPEG_KINDS)
@pytest.mark.parametrize("part", [0.02, 0.5, 0.97])
def test_an_end_mark_does_not_hide_that_pixels_are_missing(
    options: dict[str, object], part: float
) -> None:
    whole = noisy_jpeg(**options)
    assert check_image(whole).width == 130
    if "progressive" in options:
        # Cut in a scan before the last one, whose loss costs no more than the finest bits.
        starts = [at for at in range(len(whole)) if whole.startswith(b"\xff\xda", at)]
        cut = whole[: starts[1 + int(part * 4)] + 40] + b"\xff\xd9"
    else:
        cut = cut_inside(whole, part)
    with Image.open(io.BytesIO(cut)) as decoded:
        decoded.load()  # a decoder is content, and paints the rest grey
    with pytest.raises(RefusedError, match="cut off") as caught:
        check_image(cut)
    assert (caught.value.status, caught.value.slug) == (422, "truncated_image")


@pytest.mark.parametrize("options", JPEG_KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_whole_pictures_pass_whatever_harmless_oddities_cameras_add(
    options: dict[str, object], mode: str
) -> None:
    out = io.BytesIO()
    with Image.open(io.BytesIO(noisy_jpeg())) as picture_:
        picture_.convert(mode).save(out, "JPEG", **options)
    whole = out.getvalue()
    header, scan = whole[:2], whole.rindex(b"\xff\xda")
    odd = [
        whole,
        whole + bytes(700) + whole,  # a second picture behind the first
        whole[:-2] + b"\x55\x55" + whole[-2:],  # padding before the end mark
        header + b"\xff\xff\xff" + whole[2:][1:],  # fill bytes before a marker
        whole[:scan] + b"\xff\xfe\x00\x05abc" + whole[scan:],  # a comment where none is expected
    ]
    for data in odd:
        assert check_image(data).width == 130


def test_real_photographs_pass() -> None:
    for name in ("china.jpg", "flower.jpg"):
        data = (files("sklearn.datasets") / "images" / name).read_bytes()
        assert check_image(data).width == 640
        with pytest.raises(RefusedError):
            check_image(cut_inside(data, 0.5))
