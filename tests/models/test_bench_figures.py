from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from app.bench.anomaly import auroc, bench_anomaly, print_anomaly
from app.settings import AnomalySettings
from pipeline.errors import ConfigError
from tests.services import missing


def draw(seed: int, *, scratched: bool) -> NDArray[np.uint8]:
    chance = np.random.default_rng(seed)
    plate = 120 + cv2.GaussianBlur(chance.normal(0, 30, (160, 160)), (0, 0), 2)
    picture = np.asarray(np.clip(plate, 0, 255), np.uint8)
    if scratched:
        x, y = chance.integers(30, 100, 2).tolist()
        cv2.line(picture, (x, y), (x + 30, y + 20), 250, 2)
    return picture


def test_auroc_counts_ties_half() -> None:
    assert auroc([1.0, 2.0], [3.0, 4.0]) == 1.0
    assert auroc([1.0, 2.0], [2.0]) == 0.75
    assert auroc([2.0], [1.0]) == 0.0


def test_the_bench_judges_any_data_folder_and_says_what_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for code, count in (("판-1", 16), ("few", 3)):
        for kind, number in (("normal", count), ("defect", 4)):
            folder = tmp_path / code / kind
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = draw(index + 50 * (kind == "defect"), scratched=kind == "defect")
                name = f"{code}_{'긁힘' if kind == 'defect' else 'normal'}_{index}.png"
                (folder / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    try:
        result = bench_anomaly(tmp_path, 2, AnomalySettings())
    except ConfigError as error:
        missing("EfficientNet-Lite0 weights", str(error))
    row = result["products"]["판-1"]
    assert (row["normals"], row["taught"], row["defects"], len(row["runs"])) == (16, 12, 4, 2)
    assert row["auroc"]["min"] <= row["auroc"]["median"] <= row["auroc"]["max"]
    assert row["auroc"]["median"] > 0.9
    assert 0.5 <= row["baseline_auroc"] <= 1.0
    assert row["ms_per_image"] > 0
    assert "needs" in result["products"]["few"]["left_out"]
    print_anomaly(result)
    assert "판-1" in capsys.readouterr().out
