"""PatchCore against plain numpy that was written from the paper and shares no code with it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray

from adapters.weights import load_weights
from consumers.anomaly.features import FeatureExtractor, letterbox, open_extractor, recipe_for
from consumers.anomaly.fitting import Normals, fit_bank, plan_for
from consumers.anomaly.inspection import inspect
from consumers.anomaly.memory_bank import MemoryBank, Watch, nearest, select_coreset
from consumers.anomaly.scoring import anomaly_map, image_score
from pipeline.errors import ConfigError
from tests.services import missing

LITE0 = "timm:tf_efficientnet_lite0"
Floats = NDArray[np.float64]


@cache
def lite0() -> FeatureExtractor:
    try:
        weights = load_weights(LITE0)
    except ConfigError as error:
        missing("EfficientNet-Lite0 weights", str(error))
    return open_extractor(LITE0, weights.state_dict, weights.sha256, threads=2, device="cpu")


def seeded(backbone: str) -> FeatureExtractor:
    recipe = recipe_for(backbone)
    torch.manual_seed(11)
    network = timm.create_model(recipe.architecture, pretrained=False, num_classes=0)
    return open_extractor(backbone, network.state_dict(), "1" * 64, threads=2, device="cpu")


def picture(seed: int, height: int = 180, width: int = 240) -> NDArray[np.uint8]:
    chance = np.random.default_rng(seed)
    coarse = chance.uniform(0, 255, (height // 12 + 1, width // 12 + 1, 3))
    grown = coarse.repeat(12, axis=0).repeat(12, axis=1)[:height, :width]
    return np.asarray(np.clip(grown + chance.normal(0, 6, grown.shape), 0, 255), np.uint8)


def mean_of_neighbours(grid: Floats) -> Floats:
    """3x3 mean over what lies inside, (C, h, w)."""
    _, rows, columns = grid.shape
    pooled = np.empty_like(grid)
    for row in range(rows):
        for column in range(columns):
            near = grid[:, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            pooled[:, row, column] = near.mean(axis=(1, 2))
    return pooled


def stretched(grid: Floats, rows: int, columns: int) -> Floats:
    """Bilinear with half-pixel centres, one output cell at a time."""
    _, old_rows, old_columns = grid.shape
    made = np.empty((grid.shape[0], rows, columns))
    for row in range(rows):
        y = min(max((row + 0.5) * old_rows / rows - 0.5, 0), old_rows - 1)
        top = min(int(y), max(0, old_rows - 2))
        low = min(top + 1, old_rows - 1)
        for column in range(columns):
            x = min(max((column + 0.5) * old_columns / columns - 0.5, 0), old_columns - 1)
            left = min(int(x), max(0, old_columns - 2))
            right = min(left + 1, old_columns - 1)
            a, b = y - top, x - left
            made[:, row, column] = (
                (1 - a) * (1 - b) * grid[:, top, left]
                + (1 - a) * b * grid[:, top, right]
                + a * (1 - b) * grid[:, low, left]
                + a * b * grid[:, low, right]
            )
    return made


def test_patches_equal_a_plain_computation_on_the_uncut_network() -> None:
    extractor = lite0()
    image = picture(1)
    network = timm.create_model(
        "tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=(2, 3)
    ).eval()
    network.load_state_dict(dict(load_weights(LITE0).state_dict), strict=False)
    pixels = letterbox(image, extractor.recipe).pixels.astype(np.float32) / 127.5 - 1
    with torch.inference_mode():
        maps = network(torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy()))
    fine, coarse = (mean_of_neighbours(one[0].double().numpy()) for one in maps)
    expected = np.concatenate([fine, stretched(coarse, *fine.shape[1:])])[:, :28, :37]
    (grid,) = extractor.patches([image])
    assert (grid.rows, grid.columns) == (28, 37)
    assert grid.cell_px == pytest.approx(8 / 256 * (180 * 240) ** 0.5)
    got = grid.patches.numpy().reshape(28, 37, -1).transpose(2, 0, 1)
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


def test_distances_equal_a_plain_computation() -> None:
    chance = np.random.default_rng(2)
    queries, vectors = chance.normal(0, 3, (50, 40)), chance.normal(0, 3, (70, 40))
    gaps = np.sqrt(((queries[:, None] - vectors[None]) ** 2).sum(axis=2))
    bank = torch.from_numpy(vectors).float()
    found = nearest(torch.from_numpy(queries).float(), bank, bank.square().sum(1))
    assert np.allclose(found.distances.numpy(), gaps.min(axis=1), rtol=1e-5)
    assert found.indices.tolist() == gaps.argmin(axis=1).tolist()


def test_a_tiny_distance_far_from_the_origin_keeps_its_digits() -> None:
    vectors = torch.full((1, 64), 1000.0)
    query = vectors + 0.0625  # a difference that float32 holds exactly
    found = nearest(query, vectors, vectors.square().sum(1))
    assert float(found.distances[0]) == pytest.approx(0.5, rel=1e-6)


def test_banned_vectors_never_answer() -> None:
    vectors = torch.eye(4)
    banned = torch.tensor([True, False, False, False])
    found = nearest(vectors[:1], vectors, vectors.square().sum(1), banned=banned)
    assert int(found.indices[0]) != 0
    assert float(found.distances[0]) == pytest.approx(2**0.5)


def test_the_score_is_the_mean_of_the_top_patches() -> None:
    values = np.random.default_rng(3).uniform(0, 5, 1200)
    expected = float(np.sort(values)[-6:].mean())
    assert image_score(torch.from_numpy(values).float(), 0.005) == pytest.approx(expected, rel=1e-6)
    assert image_score(torch.tensor([1.0, 4.0, 2.0]), 0.005) == 4.0


def test_the_map_is_a_normalised_blur_that_keeps_a_constant() -> None:
    flat = anomaly_map(torch.full((48,), 2.5), 6, 8)
    assert flat.shape == (6, 8)
    assert np.allclose(flat, 2.5, atol=1e-6)
    spot = torch.zeros(15 * 15)
    spot[7 * 15 + 7] = 1.0
    blurred = anomaly_map(spot, 15, 15)
    weights = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 0.7**2))
    weights /= weights.sum()
    assert np.allclose(blurred[4:11, 4:11], np.outer(weights, weights), atol=1e-6)


def greedy(points: Floats, count: int, first: int) -> tuple[list[int], float]:
    """Farthest-point selection, one pass per pick."""
    picked = [first]
    gaps = ((points - points[first]) ** 2).sum(axis=1)
    while len(picked) < count:
        picked.append(int(gaps.argmax()))
        gaps = np.minimum(gaps, ((points - points[picked[-1]]) ** 2).sum(axis=1))
    return picked, float(np.sqrt(gaps.max()))


def unwatched(_done: int, _total: int) -> None:
    return None


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_coreset_is_the_exact_greedy_one(seed: int) -> None:
    chance = np.random.default_rng(seed)
    # Heavy tails: many picks settle within one pass over 9,000 points of 4,096 candidates.
    points = chance.standard_t(4, (9000, 16))
    made = select_coreset(torch.from_numpy(points).float(), 300, seed=seed, watch=unwatched)
    order = made.indices.tolist()
    expected, radius = greedy(points, 300, order[0])
    assert made.radius == pytest.approx(radius, rel=1e-3)
    assert len(set(order) & set(expected)) >= 297  # float32 may break a near tie the other way


def test_a_projected_coreset_covers_nearly_as_well() -> None:
    chance = np.random.default_rng(4)
    points = chance.normal(0, 1, (3000, 30)) @ chance.normal(0, 1, (30, 600))
    tensor = torch.from_numpy(points).float()
    made = select_coreset(tensor, 150, seed=1, watch=unwatched)
    _, exact = greedy(points, 150, int(made.indices[0]))
    bank = tensor[made.indices]
    covered = float(nearest(tensor, bank, bank.square().sum(1)).distances.max())
    assert covered <= 1.25 * exact


def test_a_coreset_of_everything_holds_each_patch_once() -> None:
    points = torch.ones(40, 8)
    made = select_coreset(points, 40, seed=0, watch=unwatched)
    assert sorted(made.indices.tolist()) == list(range(40))


def test_equal_seeds_give_equal_coresets_and_others_do_not() -> None:
    points = torch.rand(5000, 12, generator=torch.Generator().manual_seed(0))
    one, two, other = (
        select_coreset(points, 50, seed=seed, watch=unwatched).indices for seed in (7, 7, 8)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_a_coreset_tells_its_progress_and_can_be_stopped() -> None:
    told: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        select_coreset(torch.rand(5000, 12), 500, seed=0, watch=stop)
    assert told[0][1] == 500


def silent(_step: str) -> Watch:
    return unwatched


def fitted(extractor: FeatureExtractor, images: list[NDArray[np.uint8]]) -> MemoryBank:
    normals = Normals()
    normals.add({str(index): image for index, image in enumerate(images)}, extractor)
    return fit_bank("P", "v", normals, plan_for(extractor, 0.01), silent).bank


@pytest.mark.parametrize("backbone", [LITE0, "timm:wide_resnet50_2", "dinov2:vit_small_patch14"])
def test_a_score_does_not_depend_on_the_batch(backbone: str) -> None:
    extractor = lite0() if backbone == LITE0 else seeded(backbone)
    if backbone != LITE0:
        multiple = extractor.recipe.multiple_px
        extractor.recipe = replace(extractor.recipe, side_px=8 * multiple)
    bank = fitted(extractor, [picture(seed) for seed in range(5)])
    images = [picture(90), picture(91, 240, 180), picture(92), picture(93), picture(94)]
    alone = [inspect(extractor, [(image, bank)])[0].score for image in images]
    together = [found.score for found in inspect(extractor, [(image, bank) for image in images])]
    assert together == alone
    assert min(alone) > 0


def test_feature_maps_weigh_alike_in_a_distance() -> None:
    extractor = lite0()
    images = [picture(seed) for seed in range(6)]
    bank = fitted(extractor, images)
    patches = torch.cat([grid.patches for grid in extractor.patches(images)]) * bank.scale
    parts = torch.split(patches.var(dim=0), list(extractor.channels))
    assert [float(part.sum()) for part in parts] == pytest.approx([1.0, 1.0], rel=1e-3)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 900), (900, 7), (320, 320)])
def test_any_shape_of_image_is_inspected_to_its_edges(height: int, width: int) -> None:
    image = np.full((height, width, 3), 128, np.uint8)
    (grid,) = lite0().patches([image])
    assert grid.patches.shape[0] == grid.rows * grid.columns
    assert grid.rows * grid.cell_px >= height
    assert grid.columns * grid.cell_px >= width
    assert (grid.rows - 1) * grid.cell_px < height
    assert bool(torch.isfinite(grid.patches).all())


def test_weights_of_another_network_are_refused() -> None:
    weights = load_weights(LITE0)
    with pytest.raises(ConfigError, match="weights lack"):
        open_extractor("timm:wide_resnet50_2", weights.state_dict, weights.sha256)


def test_an_unknown_backbone_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match="timm:tf_efficientnet_lite0"):
        recipe_for("timm:resnet9000")


def test_planted_spots_are_found_and_good_parts_stay_dark() -> None:
    extractor = lite0()
    bank = fitted(extractor, [weave(seed) for seed in range(40)])
    good = inspect(extractor, [(weave(100 + seed), bank) for seed in range(20)])
    assert sum(len(found.regions) for found in good) <= 3
    assert sum(found.score > bank.calibration.threshold for found in good) <= 1
    hits = 0
    for seed in range(20):
        x, y = np.random.default_rng(seed).integers(30, 210, 2).tolist()
        (found,) = inspect(extractor, [(weave(200 + seed, spot=(x, y)), bank)])
        hits += any(
            region.x <= x <= region.x + region.width and region.y <= y <= region.y + region.height
            for region in found.regions
        )
    assert hits >= 18


def weave(seed: int, *, spot: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """240 x 240 woven texture; the spot is dark, 11 px wide, 0.16 % of the area."""
    chance = np.random.default_rng(seed)
    y, x = np.mgrid[:240, :240]
    shift = chance.uniform(0, 6, 2)
    cloth = 130 + 18 * np.sin((x + shift[0]) / 2) + 18 * np.sin((y + shift[1]) / 3)
    cloth = cloth * chance.normal(1, 0.03) + chance.normal(0, 4, cloth.shape)
    if spot is not None:
        cloth[(x - spot[0]) ** 2 + (y - spot[1]) ** 2 < 5.5**2] -= 70
    return np.asarray(np.clip(np.stack([cloth] * 3, axis=-1), 0, 255), np.uint8)
