"""A plant's data as it lies on disk: `data/<product>/{normal,defect,manuals}` (interfaces.md 5)."""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.subject import check_product_code

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}
MANUALS = {".md", ".txt", ".pdf"}
# Words that plants put into the name of a good part's photo.
GOOD_WORDS = {"normal", "good", "ok", "정상", "양품"}


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """A file and what its name says; the label serves learning and benches only."""

    path: Path
    label: str | None


@dataclass(frozen=True, slots=True)
class ProductFolder:
    """What lies in one product's folder. `misfits` are left out of everything, with a reason."""

    code: str
    path: Path
    settings: dict[str, Any]
    normals: tuple[LabelledPicture, ...]
    defects: tuple[LabelledPicture, ...]
    manuals: tuple[Path, ...]
    # file name → what cases.csv tells of it: decision, decided_at, action_taken, part_id
    decisions: Mapping[str, Mapping[str, str]]
    misfits: tuple[tuple[Path, str], ...]


def read_label(name: str, product: str) -> str | None:
    """Return the label in `<product>_<label>_<number>.jpg`, None when the name is not of that form.

    Read from the known product and the trailing number, so that a label may hold `_` or Hangul.
    """
    stem = unicodedata.normalize("NFC", Path(name).stem)
    match = re.fullmatch(rf"{re.escape(product)}_(.+)_(\d+)", stem)
    return match[1] if match else None


def read_data_folder(root: Path) -> list[ProductFolder]:
    """Read every product folder below `root`, by code.

    Raises:
        ValueError: `root` holds no product folder.
    """
    found = [_read_product(folder) for folder in sorted(root.iterdir()) if _is_product(folder)]
    if not found:
        message = f"{root} holds no product: expected {root}/<product>/normal/ with pictures"
        raise ValueError(message)
    return found


def _is_product(folder: Path) -> bool:
    return folder.is_dir() and any((folder / part).is_dir() for part in ("normal", "defect"))


def _read_product(folder: Path) -> ProductFolder:
    code = check_product_code(folder.name)
    misfits: list[tuple[Path, str]] = []
    normals = _pictures(folder / "normal", code, misfits, is_normal=True)
    defects = _pictures(folder / "defect", code, misfits, is_normal=False)
    described = folder / "product.json"
    settings = json.loads(described.read_text("utf-8")) if described.is_file() else {}
    manuals = tuple(
        path for path in sorted((folder / "manuals").glob("*")) if path.suffix.lower() in MANUALS
    )
    return ProductFolder(
        code,
        folder,
        settings,
        tuple(normals),
        tuple(defects),
        manuals,
        _decisions(folder / "cases.csv"),
        tuple(misfits),
    )


def _decisions(listing: Path) -> dict[str, dict[str, str]]:
    """Read what was decided about defect files: one row each, found by its column `file`."""
    if not listing.is_file():
        return {}
    with listing.open(encoding="utf-8-sig", newline="") as text:
        rows = list(csv.DictReader(text))
    return {
        Path(row["file"]).name: {k: v for k, v in row.items() if k and k != "file" and v}
        for row in rows
        if row.get("file")
    }


def _pictures(
    folder: Path, product: str, misfits: list[tuple[Path, str]], *, is_normal: bool
) -> list[LabelledPicture]:
    found = []
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() not in PICTURES:
            continue
        label = read_label(path.name, product)
        # A name without a type disagrees with nothing.
        if label is not None and (label.lower() in GOOD_WORDS) != is_normal:
            misfits.append((path, f"the folder says {folder.name}, the name says {label}"))
        else:
            found.append(LabelledPicture(path, label))
    return found
