from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from app.samples import bearing, connector
from app.samples.surface import Photo

Draw = Callable[[str | None, int], Photo]
KINDS = [(bearing.draw, kind) for kind in bearing.DEFECTS]
KINDS += [(connector.draw, kind) for kind in connector.DEFECTS]


@pytest.mark.parametrize(("draw", "kind"), KINDS)
def test_a_defect_covers_a_small_place_and_is_visible_there(draw: Draw, kind: str) -> None:
    shares = []
    for seed in range(5):
        photo = draw(kind, seed)
        assert photo.image.shape == (600, 800, 3)
        assert photo.image.dtype == np.uint8
        share = float(photo.mask.mean())
        assert 0.0003 < share < 0.01
        shares.append(share)
    assert float(np.median(shares)) <= 0.005


@pytest.mark.parametrize("draw", [bearing.draw, connector.draw])
def test_a_good_part_has_no_defect_and_no_two_photos_are_alike(draw: Draw) -> None:
    first, again, second = draw(None, 1), draw(None, 1), draw(None, 2)
    assert not first.mask.any()
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, second.image)


@pytest.mark.parametrize("draw", [bearing.draw, connector.draw])
def test_a_photo_is_neither_burnt_out_nor_drowned(draw: Draw) -> None:
    photo = draw(None, 3).image
    assert 60 < photo.mean() < 180
    assert (photo == 255).mean() < 0.02
    assert (photo == 0).mean() < 0.02
