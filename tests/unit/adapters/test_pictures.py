from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from adapters.pictures import decode_rgb, overlay, thumbnail
from pipeline.errors import PoisonError
from tests.ingest_rig import picture
from tests.unit.producers.test_image_check import cut_inside, png_claiming


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_a_lossless_picture_is_decoded_pixel_for_pixel() -> None:
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    for kind in ("PNG", "BMP", "TIFF"):
        decoded = decode_rgb(encoded(Image.fromarray(pixels), kind))
        assert decoded.dtype == np.uint8
        assert decoded.flags.c_contiguous
        assert decoded.flags.writeable
        np.testing.assert_array_equal(decoded, pixels)


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.new("RGB", (40, 20))
    assert decode_rgb(encoded(wide, "JPEG", exif=exif)).shape == (40, 20, 3)
    assert decode_rgb(encoded(wide, "JPEG")).shape == (20, 40, 3)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new(mode, (6, 4))
    kind = "PNG" if mode in ("LA", "RGBA", "P") else "TIFF"
    decoded = decode_rgb(encoded(image, kind))
    assert decoded.shape == (4, 6, 3)
    assert decoded.dtype == np.uint8


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_by_their_range_and_not_by_their_content(kind: str) -> None:
    ramp = np.array([[0, 257, 12_850, 65_535]], dtype=np.uint16)
    dark = np.array([[0, 257, 514, 771]], dtype=np.uint16)
    assert decode_rgb(encoded(Image.fromarray(ramp), kind))[0, :, 0].tolist() == [0, 1, 50, 255]
    assert decode_rgb(encoded(Image.fromarray(dark), kind))[0, :, 0].tolist() == [0, 1, 2, 3]


def test_twelve_bits_in_a_tiff_that_says_so_use_the_whole_range() -> None:
    ramp = np.array([[0, 2048, 4095]], dtype=np.uint16)
    data = encoded(Image.fromarray(ramp), "TIFF", tiffinfo={281: 4095})
    assert decode_rgb(data)[0, :, 0].tolist() == [0, 128, 255]


def test_transparency_lies_over_white() -> None:
    clear = encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), "PNG")
    assert decode_rgb(clear).tolist() == [[[255, 255, 255]] * 2] * 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not_an_image"),
        (b"text", "not_an_image"),
        (b"\xff\xd8\xff\xe0garbage", "corrupt_image"),
        (picture(kind="JPEG", side_px=64)[:-400], "truncated_image"),
        (cut_inside(picture(kind="JPEG", side_px=64), 0.5), "truncated_image"),
        (picture(kind="PNG", side_px=64)[:-2000], "corrupt_image"),
        (png_claiming(20_000, 20_000), "image_too_large"),
    ],
)
def test_bytes_that_are_no_whole_picture_are_poison(data: bytes, reason: str) -> None:
    with pytest.raises(PoisonError) as caught:
        decode_rgb(data)
    assert caught.value.reason == reason


def test_a_thumbnail_is_small_and_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    for kind, options in (("JPEG", {"exif": exif}), ("PNG", {})):
        image = Image.open(
            io.BytesIO(thumbnail(encoded(Image.new("RGB", (800, 400)), kind, **options)))
        )
        assert image.format == "JPEG"
        assert image.size == ((160, 320) if options else (320, 160))


def test_the_overlay_colours_only_where_the_heatmap_shows() -> None:
    grey = encoded(Image.new("RGB", (100, 100), (128, 128, 128)), "PNG")
    heat = np.zeros((10, 10, 4), dtype=np.uint8)
    heat[:, 5:] = (255, 255, 0, 255)
    laid = decode_rgb(overlay(grey, encoded(Image.fromarray(heat), "PNG")))
    np.testing.assert_allclose(laid[50, 10], (128, 128, 128), atol=3)
    np.testing.assert_allclose(laid[50, 90], (255, 255, 0), atol=6)


def test_outlines_are_drawn_in_the_original_pixels() -> None:
    data = encoded(Image.new("RGB", (4000, 2000)), "PNG")
    laid = decode_rgb(overlay(data, None, outlines=[[(2000, 400), (3000, 400), (3000, 1600)]]))
    assert laid.shape == (800, 1600, 3)
    assert laid[160, 1000, 0] > 100
    assert laid[400, 100].max() < 10
