from pathlib import Path

import pytest

from app.data_folder import read_data_folder, read_label


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("cap_scratch_001.jpg", "scratch"),
        ("cap_긁힘_1.png", "긁힘"),
        ("cap_bent_pin_12.jpg", "bent_pin"),
        ("cap_scratch.jpg", None),
        ("lid_scratch_001.jpg", None),
        ("cap__1.jpg", None),
    ],
)
def test_a_label_is_read_between_product_and_number(name: str, label: str | None) -> None:
    assert read_label(name, "cap") == label


def test_a_picture_whose_folder_and_name_disagree_is_listed_and_left_out(tmp_path: Path) -> None:
    for name in (
        "normal/cap_good_1.jpg",
        "normal/cap_scratch_2.jpg",
        "normal/IMG_0001.jpg",
        "defect/cap_scratch_1.jpg",
        "defect/cap_normal_3.jpg",
        "defect/photo.jpg",
        "defect/notes.txt",
        "manuals/guide.md",
    ):
        path = tmp_path / "cap" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (product,) = read_data_folder(tmp_path)
    assert [item.path.name for item in product.normals] == ["IMG_0001.jpg", "cap_good_1.jpg"]
    assert [(item.path.name, item.label) for item in product.defects] == [
        ("cap_scratch_1.jpg", "scratch"),
        ("photo.jpg", None),
    ]
    assert [path.name for path, _ in product.misfits] == [
        "cap_scratch_2.jpg",
        "cap_normal_3.jpg",
    ]
    assert [path.name for path in product.manuals] == ["guide.md"]


def test_a_folder_without_products_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="normal"):
        read_data_folder(tmp_path)
