from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli import root
from pipeline.errors import ConfigError


@pytest.mark.parametrize("bench", ["latency", "backlog", "chaos"])
@pytest.mark.parametrize(
    "setting",
    [
        "LINESIDE_KAFKA__BOOTSTRAP_SERVERS=kafka.plant:9092",
        "LINESIDE_OBJECTS__URL=s3://plant",
        "LINESIDE_DATABASE__URL=postgresql+asyncpg://lineside:hunter2@db.plant/lineside",
    ],
)
def test_a_bench_never_works_on_a_plants_own_systems(
    bench: str, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text(f"{setting}\n", "utf-8")
    refused = CliRunner().invoke(root, ["bench", bench])
    assert isinstance(refused.exception, ConfigError)
    assert f"without {setting.partition('=')[0]}," in str(refused.exception)
    assert "hunter2" not in str(refused.exception)
