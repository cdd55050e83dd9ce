"""The encoder on real weights, against timm's own forward pass; and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import open_clip
import pytest
import timm
import torch
from numpy.typing import NDArray

from adapters.weights import load_weights
from app.samples import bearing
from consumers.embed.encoder import Encoder, open_encoder
from consumers.embed.index import Case, CaseIndex, Query
from consumers.embed.likeness import Embedding
from pipeline.errors import ConfigError

MODEL = "timm:tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return open_encoder(MODEL, load_weights)


@pytest.fixture(scope="module")
def photos() -> list[NDArray[np.uint8]]:
    return [bearing.draw(None, seed).image for seed in range(3)]


def same(first: Embedding, second: Embedding) -> bool:
    return np.array_equal(first.vector, second.vector) and np.array_equal(first.cells, second.cells)


def test_the_whole_picture_is_what_timm_sees(
    encoder: Encoder, photos: Sequence[NDArray[np.uint8]]
) -> None:
    model: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    model.load_state_dict(dict(load_weights(MODEL).state_dict))
    small = cv2.resize(photos[0], (384, 384), interpolation=cv2.INTER_AREA)
    tensor = torch.from_numpy(small).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        (last,) = model.forward_intermediates(
            (tensor - 0.5) / 0.5, indices=[-1], intermediates_only=True
        )
    mean = last.mean((2, 3))[0].numpy()
    (found,) = encoder.encode(photos[:1])
    assert np.linalg.norm(found.vector) == pytest.approx(1, abs=1e-5)
    assert found.vector.dtype == np.float32
    assert found.vector.shape == (encoder.dimension,)
    share = found.vector[: len(mean)]
    assert share @ mean / np.linalg.norm(share) / np.linalg.norm(mean) > 0.9999


def test_a_picture_is_the_same_in_any_batch_to_the_last_bit(
    encoder: Encoder, photos: Sequence[NDArray[np.uint8]]
) -> None:
    together = encoder.encode(photos)
    alone = [encoder.encode([photo])[0] for photo in photos]
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))
    assert encoder.encode([]) == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (20, 900, 3), (2000, 1500, 3)])
def test_any_size_becomes_a_finite_embedding_of_one_shape(
    encoder: Encoder, shape: tuple[int, int, int]
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (found,) = encoder.encode([picture])
    assert found.cells.shape == (48 * 48, 40)
    assert np.isfinite(found.vector).all()
    assert np.isfinite(found.cells).all()


def test_small_defects_find_a_case_of_their_own_type(encoder: Encoder) -> None:
    index = CaseIndex(encoder.dimension, encoder.namespace)
    kinds = bearing.DEFECTS * 7
    cases = [Case(f"c{n}", "housing", "k", f"{n}", defect_type=k) for n, k in enumerate(kinds)]
    pictures = [bearing.draw(kind, 100 + n).image for n, kind in enumerate(kinds)]
    index.put(cases, encoder.encode(pictures))
    queries = bearing.DEFECTS * 5
    drawn = [bearing.draw(kind, 900 + n).image for n, kind in enumerate(queries)]
    first = [
        index.search(Query(embedding, "housing", k=1))[0][0].case.defect_type
        for embedding in encoder.encode(drawn)
    ]
    hits = sum(found == kind for found, kind in zip(first, queries, strict=True))
    assert hits >= 11  # of 15; chance finds 5


def test_other_weights_lie_in_another_namespace() -> None:
    class Changed:
        state_dict = load_weights(MODEL).state_dict
        sha256 = "0" * 64

    assert open_encoder(MODEL, lambda _: Changed()).namespace != (
        open_encoder(MODEL, load_weights).namespace
    )


@pytest.mark.parametrize("name", ["timm:no_such_model", "resnet50", "keras:vgg16"])
def test_an_unknown_model_stops_the_start_with_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        open_encoder(name, lambda _: load_weights(MODEL))


def test_an_open_clip_model_embeds_without_cells(photos: Sequence[NDArray[np.uint8]]) -> None:
    model = open_clip.create_model("ViT-B-32", pretrained=None)

    class Drawn:
        state_dict = model.state_dict()
        sha256 = "1" * 64

    clip = open_encoder("open_clip:ViT-B-32/datacomp_xl_s13b_b90k", lambda _: Drawn())
    (found,) = clip.encode(photos[:1])
    assert found.vector.shape == (clip.dimension,) == (512,)
    assert found.cells.size == 0
    small = cv2.resize(photos[0], (224, 224), interpolation=cv2.INTER_AREA)
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD)
    tensor = ((torch.from_numpy(small) / 255 - mean) / std).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = model.eval().encode_image(tensor, normalize=True)[0].numpy()
    assert found.vector == pytest.approx(expected, abs=1e-4)
