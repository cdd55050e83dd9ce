from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from consumers.anomaly.heatmap import render_heatmap
from consumers.anomaly.regions import MAX_REGIONS, Extent, find_regions

EXTENT = Extent(480, 640, 16.0)


def quiet() -> NDArray[np.float32]:
    return np.full((30, 40), 0.5, np.float32)


def test_a_normal_map_has_no_regions() -> None:
    assert find_regions(quiet(), EXTENT, low=1.0, seed=2.0) == ()


def test_a_region_lies_where_the_map_is_hot_in_original_pixels() -> None:
    heat = quiet()
    heat[10:13, 20:24] = 3.0
    (region,) = find_regions(heat, EXTENT, low=1.5, seed=2.0)
    assert abs(region.x - 320) <= 16
    assert abs(region.y - 160) <= 16
    assert abs(region.width - 64) <= 24
    assert abs(region.height - 48) <= 24
    assert region.score == 3.0
    assert 0.7 < region.area_px / (48 * 64) < 1.5


def test_the_outline_stays_in_the_image_and_around_the_region() -> None:
    heat = quiet()
    heat[27:, 36:] = 4.0
    (region,) = find_regions(heat, EXTENT, low=1.5, seed=2.0)
    xs, ys = zip(*region.outline, strict=True)
    assert len(region.outline) >= 3
    assert max(xs) <= 640
    assert max(ys) <= 480
    assert min(xs) >= region.x - 16
    assert region.x + region.width <= 640
    assert region.y + region.height <= 480


def test_warmth_without_a_seed_is_no_region() -> None:
    heat = quiet()
    heat[5:9, 5:9] = 1.8
    assert find_regions(heat, EXTENT, low=1.5, seed=2.0) == ()


def test_a_region_reaches_out_to_the_low_threshold() -> None:
    heat = quiet()
    heat[10, 10:30] = 1.8
    heat[10, 12] = 2.5
    (region,) = find_regions(heat, EXTENT, low=1.5, seed=2.0)
    assert region.width > 250


def test_pieces_within_a_cell_are_one_region() -> None:
    heat = quiet()
    heat[10:12, 10:14] = 3.0
    heat[10:12, 15:19] = 3.0
    assert len(find_regions(heat, EXTENT, low=1.5, seed=2.0)) == 1


def test_regions_come_strongest_first_and_are_capped() -> None:
    heat = np.full((60, 60), 0.5, np.float32)
    for index in range(25):
        heat[4 + 12 * (index // 5), 4 + 12 * (index % 5)] = 3.0 + index * 0.1
    regions = find_regions(heat, Extent(960, 960, 16.0), low=1.5, seed=2.0)
    scores = [region.score for region in regions]
    assert len(regions) == MAX_REGIONS
    assert scores == sorted(scores, reverse=True)
    assert abs(scores[0] - 5.4) < 1e-6


def test_cells_beyond_the_image_are_no_region() -> None:
    heat = quiet()
    heat[29, :] = 9.0  # row 29 covers pixels 464 to 480; the image ends at 450
    regions = find_regions(heat, Extent(450, 640, 16.0), low=1.5, seed=2.0)
    assert all(region.y + region.height <= 450 for region in regions)


def decoded(picture: bytes) -> NDArray[np.uint8]:
    pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return np.asarray(pixels, np.uint8)


def test_a_heatmap_is_transparent_where_the_map_is_normal() -> None:
    picture = decoded(render_heatmap(quiet(), EXTENT, low=1.0, high=3.0))
    assert picture.shape == (384, 512, 4)
    assert int(picture[..., 3].max()) == 0


def test_a_heatmap_has_the_products_scale_and_not_the_images_own() -> None:
    weak, strong = quiet(), quiet()
    weak[10:20, 10:20] = 1.5
    strong[10:20, 10:20] = 3.0
    faint = decoded(render_heatmap(weak, EXTENT, low=1.0, high=3.0))[240, 180]
    vivid = decoded(render_heatmap(strong, EXTENT, low=1.0, high=3.0))[240, 180]
    assert 0 < int(faint[3]) < int(vivid[3]) == 255
    assert (
        vivid.tolist()[:3]
        == cv2.applyColorMap(np.full((1, 1), 255, np.uint8), cv2.COLORMAP_CIVIDIS)[0, 0].tolist()
    )


def test_a_heatmap_shows_whatever_lies_above_the_low_end() -> None:
    faint = quiet()
    faint[10:20, 10:20] = 1.0001
    picture = decoded(render_heatmap(faint, EXTENT, low=1.0, high=3.0))
    assert int(picture[240, 180, 3]) == 70


def test_a_heatmap_keeps_the_aspect_of_a_narrow_image() -> None:
    picture = decoded(
        render_heatmap(np.ones((2, 40), np.float32), Extent(37, 1280, 32.0), low=2.0, high=3.0)
    )
    assert picture.shape[:2] == (15, 512)
