"""Pictures to vectors whose cosine is similarity: timm backbones and open_clip models."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from consumers.embed.likeness import Embedding
from pipeline.errors import ConfigError

Pictures = Sequence[NDArray[np.uint8]]
Forward = Callable[[Tensor], tuple[Tensor, Tensor | None]]
# (H, W, 3) uint8 RGB to (1, 3, h, w) float32 on the device, normalised as the model was trained.
Preprocess = Callable[[NDArray[np.uint8]], Tensor]

# Counts up when preprocessing or pooling change: old vectors then lie in another namespace.
_RECIPE = 2
# Twice the cells of 320 px and as good as 448 px, which take half as much memory again.
_SIDE_PX = 384


class Encoder(Protocol):
    """A model with its weights. `namespace` names both and the recipe, in path-safe letters."""

    name: str
    namespace: str
    dimension: int
    close_similarity: float

    def encode(self, pictures: Pictures) -> Sequence[Embedding]:
        """Embed B pictures, (H, W, 3) uint8 RGB of any size.

        What a picture becomes does not depend on its batch. Safe to call from several threads.
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
    """How one family of models is fed and read.

    `forward` returns (1, D) and, if the model offers local features, (1, C, h, w);
    `close_similarity` as in `Encoder`.
    """

    preprocess: Preprocess
    forward: Forward
    close_similarity: float


class _Placing(NamedTuple):
    """Where networks run, and what is done to them first."""

    device: torch.device
    fold: Callable[[nn.Module], nn.Module] | None

    def __call__(self, network: nn.Module) -> nn.Module:
        network = network.eval().requires_grad_(False)
        if self.fold is not None:
            network = self.fold(network)
        return network.to(self.device).to(memory_format=torch.channels_last)


class TorchEncoder:
    """Runs a recipe chunk by chunk."""

    def __init__(
        self, name: str, recipe: _Recipe, dimension: int, *, digest: str, threads: int
    ) -> None:
        """Use `open_encoder`; `digest` is the sha256 of the weights' file."""
        self.name = name
        self.dimension = dimension
        self.close_similarity = recipe.close_similarity
        identity = hashlib.sha256(f"{name} {_RECIPE} {digest}".encode()).hexdigest()[:12]
        plain = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
        self.namespace = f"{plain}-{identity}"
        self._recipe = recipe
        self._threads = threads
        self._lock = threading.Lock()

    def encode(self, pictures: Pictures) -> Sequence[Embedding]:
        """Embed; see `Encoder`.

        One picture at a time costs a CPU little more than a batch, and what it becomes is then
        the same to the last bit whatever stands beside it.
        """
        return [self._one(picture) for picture in pictures]

    def _one(self, picture: NDArray[np.uint8]) -> Embedding:
        # OpenMP keeps the number per calling thread.
        torch.set_num_threads(self._threads)
        with torch.inference_mode():
            batch = self._recipe.preprocess(picture)
            # Two forward passes at once would only take cores from each other.
            with self._lock:
                whole, local = self._recipe.forward(batch)
            vector = functional.normalize(whole.float(), dim=1)[0].cpu().numpy()
            if local is None:
                return Embedding(vector, np.empty((0, 0), np.float16))
            cells = local[0].flatten(1).T.half().cpu().numpy()
            return Embedding(vector, np.ascontiguousarray(cells))


def open_encoder(
    model: str,
    load_weights: LoadWeights,
    *,
    device: str | None = None,
    threads: int | None = None,
    fold: Callable[[nn.Module], nn.Module] | None = None,
) -> Encoder:
    """Build an encoder: `timm:NAME` or `open_clip:NAME/PRETRAINED`.

    Args:
        model: as in the settings.
        load_weights: finds its weights.
        device: `cuda` or `cpu`; None takes CUDA when there is one.
        threads: compute threads; None takes half of the cores, so that on a machine that runs
            every stage the verdict, which somebody waits for, finds a core.
        fold: makes a network faster without changing what it says.

    Raises:
        ConfigError: the library has no such model, or no weights for it are there.
    """
    family, _, name = model.partition(":")
    if family not in {"timm", "open_clip"} or not name:
        raise ConfigError(
            f"LINESIDE_EMBED__MODEL={model}: use timm:NAME or open_clip:NAME/PRETRAINED"
        )
    weights = load_weights(model)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    # The same vectors with and without a GPU: by default CUDA rounds factors to ten bits.
    torch.backends.cudnn.allow_tf32 = False
    try:
        build = _timm_recipe if family == "timm" else _clip_recipe
        recipe, dimension = build(name, weights, _Placing(place, fold))
    except RuntimeError as error:  # both libraries raise it for unknown names and other tensors
        raise ConfigError(f"LINESIDE_EMBED__MODEL={model}: {error}") from error
    threads = threads or max(1, (os.cpu_count() or 1) // 2)
    return TorchEncoder(model, recipe, dimension, digest=weights.sha256, threads=threads)


def _timm_recipe(name: str, weights: LoadedWeights, place: _Placing) -> tuple[_Recipe, int]:
    """Feature maps of a convolutional backbone.

    Whole picture: mean and maximum over the last map, and the maximum over the one before; the
    mean says which part it is, small things drown in it and show in the maxima. Cells: the map
    of stride 8, averaged over 3 x 3; deeper ones blur small defects into their surroundings.
    """
    import timm  # noqa: PLC0415 - slow to import, and only one of the two families is used

    whole = timm.create_model(name, pretrained=False)
    whole.load_state_dict(dict(weights.state_dict))
    settings: Any = whole.pretrained_cfg
    backbone: Any = timm.create_model(
        name, pretrained=False, features_only=True, out_indices=(2, -2, -1)
    )
    backbone.load_state_dict(dict(weights.state_dict), strict=False)  # it has no classifier
    _, middle, last = backbone.feature_info.channels()
    dimension = 2 * last + middle
    backbone = place(backbone)

    def forward(batch: Tensor) -> tuple[Tensor, Tensor]:
        fine, middle, last = backbone(batch)
        parts = (last.mean((2, 3)), last.amax((2, 3)), middle.amax((2, 3)))
        joined = torch.cat([functional.normalize(part, dim=1) for part in parts], dim=1)
        return joined, functional.avg_pool2d(fine, 3, stride=1, padding=1)

    preprocess = _squash(_SIDE_PX, settings["mean"], settings["std"], place.device)
    return _Recipe(preprocess, forward, 0.6), dimension


def _clip_recipe(name: str, weights: LoadedWeights, place: _Placing) -> tuple[_Recipe, int]:
    import open_clip  # noqa: PLC0415 - as timm

    architecture = name.partition("/")[0]
    model = open_clip.create_model(architecture, pretrained=None)
    model.load_state_dict(dict(weights.state_dict))
    visual = place(model.visual)
    side = int(open_clip.get_model_config(architecture)["vision_cfg"]["image_size"])
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    preprocess = _squash(side, mean, std, place.device)

    def forward(batch: Tensor) -> tuple[Tensor, None]:
        return visual(batch), None

    dimension = int(open_clip.get_model_config(architecture)["embed_dim"])
    return _Recipe(preprocess, forward, 0.4), dimension


def _squash(
    side: int, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> Preprocess:
    """Squash to a square instead of cropping: a defect at the border must be seen."""
    centre = torch.tensor(mean, device=device).view(1, 3, 1, 1) * 255
    spread = torch.tensor(std, device=device).view(1, 3, 1, 1) * 255

    def preprocess(picture: NDArray[np.uint8]) -> Tensor:
        # Bytes travel to the device, a quarter of what floats take; they are normalised there.
        small = torch.from_numpy(_resize(picture, (side, side)))[None].to(device)
        pixels = small.permute(0, 3, 1, 2).float()  # its memory stays channels last
        return pixels.sub_(centre).div_(spread)

    return preprocess


def _resize(picture: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.uint8]:
    shrinks = picture.shape[0] > size[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC  # area averages away no aliasing
    return np.asarray(cv2.resize(picture, size, interpolation=how), dtype=np.uint8)
