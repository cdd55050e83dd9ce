from __future__ import annotations

from pathlib import Path

import pytest

from app.samples.split import Split, defect_type_of, read_held_out, split, write_held_out

PRODUCT = "베어링-하우징"


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    for folder, label, count in (
        ("normal", "normal", 40),
        ("defect", "긁힘", 9),
        ("defect", "bent_pin", 60),
    ):
        place = tmp_path / PRODUCT / folder
        place.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (place / f"{PRODUCT}_{label}_{number:03}.jpg").touch()
    (tmp_path / PRODUCT / "normal" / "Thumbs.db").touch()
    return tmp_path


def test_nothing_that_teaches_is_judged_and_nothing_is_lost(plant: Path) -> None:
    parts = split(plant, PRODUCT, seed=3)
    groups = [set(parts.normals), set(parts.cases), set(parts.held_out)]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 40 + 9 + 60
    assert len(parts.normals) == 30
    assert {path.parent.name for path in parts.cases} == {"defect"}


def test_each_defect_type_gives_half_of_its_files_as_cases_and_twenty_at_most(
    plant: Path,
) -> None:
    types = [defect_type_of(path.name, PRODUCT) for path in split(plant, PRODUCT).cases]
    assert (types.count("긁힘"), types.count("bent_pin")) == (4, 20)


def test_a_seed_always_splits_alike_and_another_one_differently(plant: Path) -> None:
    assert split(plant, PRODUCT, 1) == split(plant, PRODUCT, 1)
    assert split(plant, PRODUCT, 1).normals != split(plant, PRODUCT, 2).normals


def test_a_prefix_of_what_is_held_out_is_a_fair_sample(plant: Path) -> None:
    folders = {path.parent.name for path in split(plant, PRODUCT).held_out[:25]}
    assert folders == {"normal", "defect"}


def test_a_product_without_pictures_splits_into_nothing(tmp_path: Path) -> None:
    assert split(tmp_path, "nobody") == Split((), (), ())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("베어링-하우징_긁힘_001.jpg", "긁힘"),
        ("베어링-하우징_bent_pin_12.png", "bent_pin"),
        ("베어링-하우징_normal_0001.jpg", "normal"),
        ("베어링-하우징_001.jpg", None),
        ("다른-제품_긁힘_001.jpg", None),
        ("베어링-하우징_긁힘.jpg", None),
    ],
)
def test_the_type_stands_between_product_and_number(name: str, expected: str | None) -> None:
    assert defect_type_of(name, PRODUCT) == expected


def test_the_list_of_held_out_files_reads_back(plant: Path) -> None:
    folder = plant / PRODUCT
    held_out = split(plant, PRODUCT).held_out
    assert read_held_out(folder) == frozenset()
    write_held_out(folder, held_out)
    assert read_held_out(folder) == frozenset(held_out)
