"""Pictures to vectors whose cosine is similarity: timm backbones and open_clip models."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ConfigError

Pictures = Sequence[NDArray[np.uint8]]
Forward = Callable[[Tensor], Tensor]
Preprocess = Callable[[NDArray[np.uint8]], Tensor]

# Counts up when preprocessing or pooling change: old vectors then lie in another namespace.
_RECIPE = 1
_LONG_SIDE_PX = 448


class Encoder(Protocol):
    """A model with its weights. `namespace` names both and the recipe, in path-safe letters."""

    name: str
    namespace: str
    dimension: int
    close_similarity: float

    def encode(self, pictures: Pictures) -> NDArray[np.float32]:
        """Embed B pictures, (H, W, 3) uint8 RGB of any size, as (B, D) float32 of length 1.

        A picture's vector does not depend on its batch. Safe to call from several threads.
        """
        ...


class LoadedWeights(Protocol):
    """A state dict and the digest of the file that it came from."""

    @property
    def state_dict(self) -> Mapping[str, Any]:
        """Tensors by the model library's own names."""
        ...

    @property
    def sha256(self) -> str:
        """64 hex digits."""
        ...


class LoadWeights(Protocol):
    """Finds the weights of a model by its name in the settings."""

    def __call__(self, model: str) -> LoadedWeights:
        """Load.

        Raises:
            ConfigError: nothing holds them.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How one family of models is fed and read; `close_similarity` as in `Encoder`."""

    preprocess: Preprocess
    forward: Forward
    close_similarity: float


class TorchEncoder:
    """Runs a recipe chunk by chunk."""

    def __init__(self, name: str, recipe: _Recipe, dimension: int, *, digest: str) -> None:
        """Use `open_encoder`; `digest` is the sha256 of the weights' file."""
        self.name = name
        self.dimension = dimension
        self.close_similarity = recipe.close_similarity
        identity = hashlib.sha256(f"{name} {_RECIPE} {digest}".encode()).hexdigest()[:12]
        plain = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
        self.namespace = f"{plain}-{identity}"
        self._recipe = recipe
        self._lock = threading.Lock()

    def encode(self, pictures: Pictures) -> NDArray[np.float32]:
        """Embed; see `Encoder`.

        One picture at a time costs a CPU little more than a batch, and its vector is then the
        same to the last bit whatever stands beside it.
        """
        vectors = [self._one(picture) for picture in pictures]
        if not vectors:
            return np.empty((0, self.dimension), np.float32)
        return np.stack(vectors)

    def _one(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        tensor = self._recipe.preprocess(picture).unsqueeze(0)
        # one at a time: two forward passes at once only take cores from each other
        with self._lock, torch.inference_mode():
            vector = self._recipe.forward(tensor)
            return functional.normalize(vector.float(), dim=1)[0].cpu().numpy()


def open_encoder(model: str, load_weights: LoadWeights, *, device: str = "cpu") -> Encoder:
    """Build an encoder: `timm:NAME` or `open_clip:NAME/PRETRAINED`.

    Raises:
        ConfigError: the library has no such model, or no weights for it are there.
    """
    family, _, name = model.partition(":")
    if family not in {"timm", "open_clip"} or not name:
        raise ConfigError(
            f"LINESIDE_EMBED__MODEL={model}: use timm:NAME or open_clip:NAME/PRETRAINED"
        )
    weights = load_weights(model)
    try:
        build = _timm_recipe if family == "timm" else _clip_recipe
        recipe, dimension = build(name, weights, torch.device(device))
    except RuntimeError as error:  # both libraries raise it for unknown names and other tensors
        raise ConfigError(f"LINESIDE_EMBED__MODEL={model}: {error}") from error
    return TorchEncoder(model, recipe, dimension, digest=weights.sha256)


def _timm_recipe(name: str, weights: LoadedWeights, device: torch.device) -> tuple[_Recipe, int]:
    """Mean and maximum over the last feature map, and the maximum over the one before.

    The mean says which part it is; a defect of a few cells drowns in it and shows in the maxima.
    """
    import timm  # noqa: PLC0415 - slow to import, and only one of the two families is used

    whole = timm.create_model(name, pretrained=False)
    whole.load_state_dict(dict(weights.state_dict))
    settings: Any = whole.pretrained_cfg
    backbone: nn.Module = timm.create_model(
        name, pretrained=False, features_only=True, out_indices=(-2, -1)
    )
    backbone.load_state_dict(dict(weights.state_dict), strict=False)  # it has no classifier
    backbone = backbone.to(device).eval()
    preprocess = _letter_scale(settings["mean"], settings["std"])

    def forward(batch: Tensor) -> Tensor:
        middle, last = backbone(batch.to(device))
        parts = (last.mean((2, 3)), last.amax((2, 3)), middle.amax((2, 3)))
        return torch.cat([functional.normalize(part, dim=1) for part in parts], dim=1)

    channels = backbone.feature_info.channels()  # type: ignore[union-attr, operator]  # timm's own attribute
    return _Recipe(preprocess, forward, 0.4), 2 * channels[1] + channels[0]


def _clip_recipe(name: str, weights: LoadedWeights, device: torch.device) -> tuple[_Recipe, int]:
    import open_clip  # noqa: PLC0415 - as timm

    architecture = name.partition("/")[0]
    model = open_clip.create_model(architecture, pretrained=None)
    model.load_state_dict(dict(weights.state_dict))
    visual: nn.Module = model.visual.to(device).eval()
    side = int(open_clip.get_model_config(architecture)["vision_cfg"]["image_size"])
    preprocess = _squash(side, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)

    def forward(batch: Tensor) -> Tensor:
        vector = visual(batch.to(device))
        assert isinstance(vector, Tensor)
        return vector

    dimension = int(open_clip.get_model_config(architecture)["embed_dim"])
    return _Recipe(preprocess, forward, 0.4), dimension


def _letter_scale(mean: Sequence[float], std: Sequence[float]) -> Preprocess:
    """Scale the long side to 448 px, both sides to multiples of 32; nothing is cropped away."""

    def preprocess(picture: NDArray[np.uint8]) -> Tensor:
        height, width = picture.shape[:2]
        scale = _LONG_SIDE_PX / max(height, width)
        size = tuple(max(32, round(side * scale / 32) * 32) for side in (width, height))
        return _to_tensor(_resize(picture, size), mean, std)

    return preprocess


def _squash(side: int, mean: Sequence[float], std: Sequence[float]) -> Preprocess:
    """Squash to a square instead of cropping: a defect at the border must be seen."""

    def preprocess(picture: NDArray[np.uint8]) -> Tensor:
        return _to_tensor(_resize(picture, (side, side)), mean, std)

    return preprocess


def _resize(picture: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.uint8]:
    shrinks = picture.shape[0] > size[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC  # area averages away no aliasing
    return np.asarray(cv2.resize(picture, size, interpolation=how), dtype=np.uint8)


def _to_tensor(picture: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(H, W, 3) uint8 RGB to (3, H, W) float32, normalised as the model was trained."""
    centre, spread = np.array(mean, np.float32), np.array(std, np.float32)
    scaled = (picture / np.float32(255) - centre) / spread
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32))
