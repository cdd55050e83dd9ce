"""Patch features: a timm backbone's mid-level maps, averaged over 3x3 and aligned (PatchCore)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import timm
import torch
import torch.nn.functional as F  # noqa: N812 - the name every reader of torch code knows
from numpy.typing import NDArray

from pipeline.errors import ConfigError

_SMALLEST_SIDE_PX = 256
_LONGEST_SIDES = 4
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an image becomes patches; part of a bank's identity.

    Attributes:
        backbone: name as in the settings, such as `timm:tf_efficientnet_lite0`.
        architecture: timm's name of it.
        layers: timm's indices of the feature maps, finest first; empty for a transformer.
        side_px: side of the square whose area the resized image has, so that every aspect costs
            the same; an image smaller than this and than 256 px is enlarged to 256 px at most,
            since more would add cells and no information.
        stride_px: side of one patch in the resized image.
        multiple_px: what the padded sides must divide by.
        pool: side of the neighbourhood that a patch averages (p in the paper).
        unit_length: whether patches are scaled to length 1, so that Euclid means cosine.
        top_fraction: share of the patches, highest first, that the image score averages.
    """

    backbone: str
    architecture: str
    layers: tuple[int, ...]
    side_px: int
    stride_px: int
    multiple_px: int
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD
    pool: int = 3
    unit_length: bool = False
    top_fraction: float = 0.005


_WIDE_RESNET = Recipe("timm:wide_resnet50_2", "wide_resnet50_2", (2, 3), 256, 8, 16)
RECIPES: Mapping[str, Recipe] = {
    recipe.backbone: recipe
    for recipe in (
        Recipe(
            "timm:tf_efficientnet_lite0",
            "tf_efficientnet_lite0",
            (2, 3),
            384,
            8,
            16,
            (0.5, 0.5, 0.5),
            (0.5, 0.5, 0.5),
        ),
        _WIDE_RESNET,
        Recipe("timm:wide_resnet50_2.tv_in1k", "wide_resnet50_2", (2, 3), 256, 8, 16),
        Recipe(
            "dinov2:vit_small_patch14",
            "vit_small_patch14_dinov2",
            (),
            448,
            14,
            14,
            pool=1,
            unit_length=True,
            top_fraction=0.01,
        ),
    )
}


class PatchGrid(NamedTuple):
    """The patches of one image.

    `patches` is (rows * columns, D) float32, row by row; `cell_px` is the side of a patch in
    pixels of the image given, so that cell (r, c) starts at (r * cell_px, c * cell_px).
    """

    patches: torch.Tensor
    rows: int
    columns: int
    cell_px: float


def recipe_for(backbone: str) -> Recipe:
    """Return the recipe of a backbone named in the settings.

    Raises:
        ConfigError: no recipe has that name.
    """
    recipe = RECIPES.get(backbone)
    if recipe is None:
        allowed = ", ".join(sorted(RECIPES))
        raise ConfigError(f"LINESIDE_ANOMALY__BACKBONE={backbone}: use one of {allowed}")
    return recipe


class FeatureExtractor:
    """A frozen backbone that turns images into patches."""

    def __init__(
        self,
        recipe: Recipe,
        network: torch.nn.Module,
        weights_sha256: str,
        *,
        threads: int,
        device: str,
    ) -> None:
        """Use `open_extractor`, which builds the network."""
        self.recipe = recipe
        self.weights_sha256 = weights_sha256
        self.channels: tuple[int, ...] = _channels(recipe, network)
        self._network = network
        self._threads = threads
        self._device = torch.device(device)
        self._mean = torch.tensor(recipe.mean, device=self._device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(recipe.std, device=self._device).view(1, 3, 1, 1) * 255

    @torch.inference_mode()
    def patches(
        self, images: Sequence[NDArray[np.uint8]], *, on_device: bool = False
    ) -> list[PatchGrid]:
        """Return each image's patches, in order.

        Args:
            images: (H, W, 3) uint8 RGB each, of any sizes.
            on_device: leave them where they were computed instead of on the CPU.
        """
        # OpenMP keeps the number per calling thread, and another library may have changed it; sums
        # in another order would change a score's last digits.
        torch.set_num_threads(self._threads)
        boxes = [letterbox(image, self.recipe) for image in images]
        if self._device.type == "cpu":
            # Twice as fast as a batch, whose maps outgrow the cache, and the same to the last bit
            # whatever an image's neighbours are.
            return [
                _crop(self._forward(torch.from_numpy(box.pixels[None]))[0], box) for box in boxes
            ]
        grids = self._patches_of_batches(boxes)
        if on_device:
            return grids
        return [grid._replace(patches=grid.patches.cpu()) for grid in grids]

    def _patches_of_batches(self, boxes: Sequence[Box]) -> list[PatchGrid]:
        """Let images of equal size share a pass."""
        grids: list[PatchGrid | None] = [None] * len(boxes)
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for index, box in enumerate(boxes):
            by_shape.setdefault(box.pixels.shape, []).append(index)
        for members in by_shape.values():
            batch = np.stack([boxes[index].pixels for index in members])
            maps = self._forward(torch.from_numpy(batch))
            for index, one in zip(members, maps, strict=True):
                grids[index] = _crop(one, boxes[index])
        return [grid for grid in grids if grid is not None]

    def _forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Map (B, H, W, 3) uint8 to (B, h, w, D) float32."""
        pixels = (
            batch.to(self._device).permute(0, 3, 1, 2).float()
        )  # its memory stays channels last
        pixels = pixels.sub_(self._mean).div_(self._std)
        if self.recipe.layers:
            merged = merge_maps(self._network(pixels), self.recipe.pool)
        else:
            merged = self._token_map(pixels)
        if self.recipe.unit_length:
            merged = F.normalize(merged, dim=1)
        return merged.permute(0, 2, 3, 1).contiguous()

    def _token_map(self, pixels: torch.Tensor) -> torch.Tensor:
        tokens = self._network.forward_features(pixels)  # type: ignore[operator] # timm's own method
        tokens = tokens[:, self._network.num_prefix_tokens :]
        rows = pixels.shape[2] // self.recipe.stride_px
        columns = pixels.shape[3] // self.recipe.stride_px
        return tokens.transpose(1, 2).reshape(len(pixels), -1, rows, columns)  # type: ignore[no-any-return] # timm is untyped


def _channels(recipe: Recipe, network: torch.nn.Module) -> tuple[int, ...]:
    """Channels that each feature map gives to a patch, in order."""
    if recipe.layers:
        return tuple(network.feature_info.channels())  # type: ignore[union-attr,operator] # timm is untyped
    return (int(network.num_features),)  # type: ignore[arg-type] # as above


def merge_maps(maps: Sequence[torch.Tensor], pool: int) -> torch.Tensor:
    """Average each map over its neighbourhood, bring all to the finest grid, and stack channels.

    Args:
        maps: (B, C_i, h_i, w_i) float32, finest first.
        pool: odd side of the neighbourhood; cells outside the image do not count.

    Returns:
        (B, sum C_i, h_0, w_0) float32.
    """
    size = maps[0].shape[-2:]
    merged = []
    for one in maps:
        pooled = F.avg_pool2d(one, pool, 1, pool // 2, count_include_pad=False) if pool > 1 else one
        if pooled.shape[-2:] != size:
            pooled = F.interpolate(pooled, size=size, mode="bilinear", align_corners=False)
        merged.append(pooled)
    return torch.cat(merged, dim=1)


class Box(NamedTuple):
    """A resized image, padded on the right and below; `rows` x `columns` cells hold content."""

    pixels: NDArray[np.uint8]
    rows: int
    columns: int
    cell_px: float


def letterbox(image: NDArray[np.uint8], recipe: Recipe) -> Box:
    """Resize to at most the recipe's area, with the aspect kept and nothing cropped away.

    Args:
        image: (H, W, 3) uint8 RGB.
        recipe: gives the size; the padding repeats the border, and its cells are dropped later.
    """
    height, width = image.shape[:2]
    side = (height * width) ** 0.5
    scale = min(recipe.side_px, max(side, _SMALLEST_SIDE_PX)) / side
    # A strip of a camera line must not become a network input of arbitrary length.
    scale = min(scale, _LONGEST_SIDES * recipe.side_px / max(height, width))
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(image, (new_width, new_height), interpolation=method)
    below, right = -new_height % recipe.multiple_px, -new_width % recipe.multiple_px
    padded = cv2.copyMakeBorder(small, 0, below, 0, right, cv2.BORDER_REPLICATE)
    stride = recipe.stride_px
    rows, columns = -(-new_height // stride), -(-new_width // stride)
    return Box(np.ascontiguousarray(padded, np.uint8), rows, columns, stride / scale)


def _crop(one: torch.Tensor, box: Box) -> PatchGrid:
    content = one[: box.rows, : box.columns].reshape(box.rows * box.columns, -1)
    return PatchGrid(content.contiguous(), box.rows, box.columns, box.cell_px)


def open_extractor(
    backbone: str,
    state_dict: Mapping[str, Any],
    weights_sha256: str,
    *,
    threads: int = 2,
    device: str | None = None,
    fold: Callable[[torch.nn.Module], torch.nn.Module] | None = None,
) -> FeatureExtractor:
    """Build the backbone with these weights, ready to compute.

    Args:
        backbone: a name of `RECIPES`.
        state_dict: tensors by timm's names; the classifier's are not used.
        weights_sha256: digest of the file they came from; part of every bank's identity.
        threads: compute threads of torch in this process.
        device: `cuda` or `cpu`; None takes CUDA when there is one.
        fold: makes the network faster without changing its features.

    Raises:
        ConfigError: unknown backbone, or weights of another network.
    """
    recipe = recipe_for(backbone)
    cv2.setNumThreads(threads)
    if recipe.layers:
        network = timm.create_model(
            recipe.architecture, pretrained=False, features_only=True, out_indices=recipe.layers
        )
        _drop_unused(network)
    else:
        network = timm.create_model(
            recipe.architecture, pretrained=False, num_classes=0, dynamic_img_size=True
        )
    try:
        missing, _ = network.load_state_dict(dict(state_dict), strict=False)
    except RuntimeError:  # how torch says that a tensor has another shape
        missing = ["a tensor of its shape"]
    if missing:
        raise ConfigError(f"the weights lack {missing[0]}; name the file that is {backbone}'s own")
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    # By default CUDA rounds what convolutions multiply to ten bits: features move by 0.2 %, and a
    # bank built with a GPU gives some images another verdict than one built without.
    torch.backends.cudnn.allow_tf32 = False
    network = network.eval().requires_grad_(False)
    if fold is not None:
        network = fold(network)
    network = network.to(place).to(memory_format=torch.channels_last)
    return FeatureExtractor(recipe, network, weights_sha256, threads=threads, device=place)


def _drop_unused(network: torch.nn.Module) -> None:
    """Cut an EfficientNet behind its last map; timm computes the rest and throws it away."""
    stages = getattr(network, "_stage_out_idx", None)
    if stages is None:
        return
    last = max(stages)
    network.blocks = network.blocks[:last]  # type: ignore[index] # a Sequential
