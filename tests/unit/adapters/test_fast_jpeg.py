"""The faster decoder never tells anything else than Pillow's: not by a pixel, not by a reason."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from adapters import fast_jpeg, pictures
from pipeline.errors import PoisonError

_EXIF_ORIENTATION = 0x0112

Decode = Callable[[bytes], Any]


def jpeg(mode: str = "RGB", size: tuple[int, int] = (83, 61), **options: object) -> bytes:
    noise = np.random.default_rng(7).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    coarse = Image.fromarray(noise[:, :, :3]).resize((9, 7)).resize(size)
    out = io.BytesIO()
    coarse.convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = orientation
    return jpeg(exif=exif)


def outcome(decode: Decode, data: bytes) -> Any:
    try:
        return decode(data).tolist()
    except PoisonError as error:
        return error.reason


@pytest.mark.parametrize(
    "data",
    [
        *(jpeg(subsampling=name, quality=q) for name in (0, 1, 2) for q in (30, 80, 100)),
        *(jpeg(size=size) for size in ((1, 1), (8, 8), (17, 16), (640, 3))),
        jpeg("L"),
        jpeg("L", size=(1, 9)),
        jpeg("CMYK"),
        jpeg(progressive=True),
        jpeg(restart_marker_blocks=2),
        jpeg() + b"what a camera appends",
        *(turned(orientation) for orientation in range(10)),
    ],
)
def test_it_gives_the_pixels_that_pillow_gives(data: bytes) -> None:
    fast, plain = fast_jpeg.decode_rgb(data), pictures.decode_rgb(data)
    np.testing.assert_array_equal(fast, plain)
    assert (fast.dtype, fast.shape) == (plain.dtype, plain.shape)
    assert fast.flags.c_contiguous
    assert fast.flags.writeable


def test_usual_jpegs_are_decoded_by_it_and_not_by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: bytes) -> None:
        raise AssertionError

    monkeypatch.setattr(pictures, "_decode_probe", refuse)
    assert fast_jpeg.decode_rgb(jpeg()).shape == (61, 83, 3)
    assert fast_jpeg.decode_rgb(jpeg("L")).shape == (61, 83, 3)
    with pytest.raises(AssertionError):
        fast_jpeg.decode_rgb(turned(6))


@settings(deadline=None)
@given(cut=st.floats(0.05, 0.999), ended=st.booleans(), grey=st.booleans())
@example(cut=0.999, ended=True, grey=False)
def test_a_file_that_was_cut_off_gets_the_same_answer(
    *, cut: float, ended: bool, grey: bool
) -> None:
    whole = jpeg("L" if grey else "RGB")
    data = whole[: int(len(whole) * cut)] + (b"\xff\xd9" if ended else b"")
    assert outcome(fast_jpeg.decode_rgb, data) == outcome(pictures.decode_rgb, data)


@settings(deadline=None)
@given(place=st.floats(0.0, 0.999), value=st.integers(0, 255), count=st.integers(1, 8))
def test_a_file_with_a_stain_gets_the_same_answer(place: float, value: int, count: int) -> None:
    stained = bytearray(jpeg())
    begin = int(len(stained) * place)
    stained[begin : begin + count] = bytes([value]) * len(stained[begin : begin + count])
    data = bytes(stained)
    assert outcome(fast_jpeg.decode_rgb, data) == outcome(pictures.decode_rgb, data)
