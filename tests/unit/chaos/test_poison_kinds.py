"""That each kind ends as it says is shown on a running system by tests/chaos/test_chaos.py."""

from __future__ import annotations

import io
from itertools import islice

import pytest
from PIL import Image

from app.chaos.poison import JUDGES, KINDS, Noise, Planted, Poison, Poisoner, Upload
from pipeline.errors import RefusedError
from producers.image_check import check_image
from schemas.codec import MalformedEventError, decode
from schemas.message import Record
from tests.plant import draw_part

PICTURES = [draw_part(seed) for seed in range(3)]


def poison(seed: int, count: int = KINDS) -> list[Poison]:
    return list(islice(Poisoner(seed, PICTURES), count))


def test_the_seed_repeats_it_and_every_kind_comes_before_one_comes_again() -> None:
    assert poison(7, 2 * KINDS) == poison(7, 2 * KINDS)
    for seed in range(5):
        assert len({one.kind for one in poison(seed)}) == KINDS


def test_no_two_records_and_no_two_objects_are_the_same_but_for_null() -> None:
    made = poison(3, 6 * KINDS)
    values = [one.value for one in made if isinstance(one, Noise) and one.value is not None]
    keys = [one.image["sha256"] for one in made if isinstance(one, Planted)]
    assert len(set(values)) == len(values)
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("seed", range(10))
def test_the_door_refuses_what_it_says_it_refuses(seed: int) -> None:
    for one in poison(seed):
        if not isinstance(one, Upload) or one.product:
            continue
        if one.refused is None:
            check_image(one.data)
            assert set(one.buries) == set(JUDGES)
            with pytest.raises(OSError, match=r"broken|invalid|truncated|cannot|unrecognized"):
                Image.open(io.BytesIO(one.data)).load()
        else:
            with pytest.raises(RefusedError) as refused:
                check_image(one.data)
            assert (refused.value.status, refused.value.slug) == one.refused


def test_noise_is_no_event_for_the_reason_that_it_says() -> None:
    for one in poison(1):
        if isinstance(one, Noise):
            with pytest.raises(MalformedEventError) as refused:
                decode(Record(one.topic, 0, 0, None, one.value))
            assert {refused.value.reason} == set(one.buries.values())


def test_a_swapped_object_is_a_whole_picture_of_the_size_that_was_said() -> None:
    (one,) = [one for one in poison(2) if one.kind == "swapped"]
    assert isinstance(one, Planted)
    assert one.stored is not None
    assert len(one.stored) == one.image["size_bytes"]
    check_image(one.stored)
