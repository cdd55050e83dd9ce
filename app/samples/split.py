"""Which files of a data folder teach and which are judged: never the same file, per seed."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# `import` leaves the files named here alone, one relative path a line: they are to be judged.
HELD_OUT_FILE = "held_out.txt"

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"})
_MOST_NORMALS = 200
_TAUGHT_SHARE = 0.75
_MOST_CASES_PER_TYPE = 20


@dataclass(frozen=True, slots=True)
class Split:
    """Paths of one product: bank normals, past cases, and what is published to be judged.

    `held_out` is shuffled, so that its first n files are a fair sample.
    """

    normals: tuple[Path, ...]
    cases: tuple[Path, ...]
    held_out: tuple[Path, ...]


def split(root: Path, product: str, seed: int = 0) -> Split:
    """Split `root/<product>/normal` and `/defect` at random, equal for an equal seed.

    Three quarters of the normals (200 at most) teach; of each defect type one half
    (20 at most) become past cases; all else is held out.
    """
    folder = root / product
    chance = random.Random(f"{product}:{seed}")  # noqa: S311 - a split, no secret
    normals = _shuffled(pictures(folder / "normal"), chance)
    taught = min(_MOST_NORMALS, int(len(normals) * _TAUGHT_SHARE))
    cases: list[Path] = []
    held_out = normals[taught:]
    for _, files in sorted(_by_type(pictures(folder / "defect"), product).items()):
        shuffled = _shuffled(files, chance)
        kept = min(_MOST_CASES_PER_TYPE, len(shuffled) // 2)
        cases += shuffled[:kept]
        held_out += shuffled[kept:]
    return Split(tuple(normals[:taught]), tuple(cases), tuple(_shuffled(held_out, chance)))


def pictures(folder: Path) -> list[Path]:
    """Image files of a folder, by name; none when there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)


def defect_type_of(file_name: str, product: str) -> str | None:
    """Read the defect type of `<product>_<defect type>_<number>.jpg`; None if it has no such form.

    The product is known and the number comes last, so a type may hold `_` or Hangul.
    """
    match = re.fullmatch(rf"{re.escape(product)}_(.+)_\d+", Path(file_name).stem)
    return match.group(1) if match else None


def read_held_out(folder: Path) -> frozenset[Path]:
    """Files of a product's folder that `import` must leave alone; empty without a list."""
    listing = folder / HELD_OUT_FILE
    if not listing.is_file():
        return frozenset()
    lines = listing.read_text(encoding="utf-8").splitlines()
    return frozenset(folder / line for line in lines if line.strip())


def write_held_out(folder: Path, held_out: Iterable[Path]) -> None:
    """Write the list that `read_held_out` reads, in the given order."""
    lines = [path.relative_to(folder).as_posix() for path in held_out]
    (folder / HELD_OUT_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _by_type(files: Sequence[Path], product: str) -> dict[str, list[Path]]:
    types: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        types[defect_type_of(path.name, product) or ""].append(path)
    return types


def _shuffled(files: Sequence[Path], chance: random.Random) -> list[Path]:
    return chance.sample(list(files), len(files))
