"""Every measurement that is declared is made somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.telemetry import METRICS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "adapters", "producers", "consumers", "notifier", "console", "app")


def _shipped() -> str:
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    table = ROOT / "pipeline" / "telemetry.py"
    return "\n".join(path.read_text("utf-8") for path in files if path != table)


@pytest.fixture(scope="module")
def shipped() -> str:
    return _shipped()


@pytest.mark.parametrize("name", METRICS)
def test_a_declared_measurement_is_made(name: str, shipped: str) -> None:
    assert f'"{name}"' in shipped


@pytest.mark.parametrize("name", METRICS)
def test_a_declared_measurement_is_documented(name: str) -> None:
    assert f"`lineside_{name}" in (ROOT / "docs" / "workers.md").read_text("utf-8")
