"""Real solar cells from the `elpv-dataset` wheel (CC BY-NC-SA 4.0: installed, never shipped).

Electroluminescence images of 300 x 300 px with a defect probability each; see
Deitsch et al., Solar Energy 185 (2019), and Buerhop-Lutz et al., EU PVSEC (2018).
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from app.samples.catalog import SOLAR_CELL

COUNT = 588 + 313  # mono cells of probability 0 and of probability 1


def is_installed() -> bool:
    """Whether the wheel is there: `pip install lineside[samples]`."""
    return importlib.util.find_spec("elpv_dataset") is not None


def copy_cells(folder: Path) -> None:
    """Copy mono cells as they are: probability 0 to `normal`, 1 to `defect`.

    What experts were unsure of (1/3 and 2/3) is left out.

    Raises:
        ModuleNotFoundError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("elpv_dataset: pip install lineside[samples]")
    data = Path(spec.origin).parent / "data"
    code = SOLAR_CELL.code
    defect = SOLAR_CELL.defect_types[0].code
    for line in (data / "labels.csv").read_text(encoding="ascii").splitlines():
        name, probability, kind = line.split()
        if kind != "mono" or float(probability) not in {0.0, 1.0}:
            continue
        number = Path(name).stem.removeprefix("cell")
        is_normal = float(probability) == 0.0
        place = folder / ("normal" if is_normal else "defect")
        label = "normal" if is_normal else defect
        shutil.copyfile(data / name, place / f"{code}_{label}_{number}.png")
