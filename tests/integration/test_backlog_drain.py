from __future__ import annotations

from pathlib import Path

import pytest

from app.bench.backlog import BacklogOptions, bench_backlog
from tests.plant import write_product

IMAGES = 150


@pytest.mark.needs_kafka
async def test_a_backlog_drains_in_order_with_falling_age_and_flat_memory(tmp_path: Path) -> None:
    root = write_product(tmp_path / "data", normals=20, defects=4)
    # Few images a second make a long past: what one partition's turn adds is small beside it.
    options = BacklogOptions(IMAGES, ("anomaly", "record"), root, rate=0.1)
    result = await bench_backlog(tmp_path, options, print)
    assert result["faults"] == []
    assert result["passed"]
    anomaly = result["stages"]["anomaly"]
    assert (anomaly["results"], anomaly["lost"], anomaly["double"]) == (IMAGES, 0, 0)
    ages = [sample["oldest_age_s"] for sample in result["samples"]["anomaly"]]
    assert ages[0] > IMAGES / 0.1 * 0.9
    assert ages[-1] is None
