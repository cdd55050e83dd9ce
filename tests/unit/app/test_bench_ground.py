from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli.root import root
from app.settings import Settings
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


PLANT = {
    "LINESIDE_FOLDER__PATH": "/plant/camera",
    "LINESIDE_LLM__BASE_URL": "http://llm.plant",
    "LINESIDE_WEB__TOKENS": '["secret"]',
    "LINESIDE_TOKEN": "secret",
    "LINESIDE_SEARCH__URL": "http://search.plant",
    "LINESIDE_HEALTH__PORT": "9100",
}


def set_here() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if name.startswith("LINESIDE_")}


@pytest.mark.parametrize("bench", ["latency", "backlog", "chaos"])
@pytest.mark.parametrize("in_file", [False, True])
def test_a_benchs_roles_get_nothing_of_the_plants_settings_but_the_networks(
    bench: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_file: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {**PLANT, "LINESIDE_ANOMALY__PRECISION": "fp16", "LINESIDE_EMBED__WEIGHTS": "w.bin"}
    if in_file:
        Path(".env").write_text("".join(f"{k}={v}\n" for k, v in given.items()), "utf-8")
    else:
        for name, value in given.items():
            monkeypatch.setenv(name, value)
    before = set_here()
    seen: list[Settings] = []

    async def measure(*_: object, **__: object) -> dict[str, bool]:
        # What a role reads that is started now.
        seen.append(Settings())
        assert not set(PLANT) & set(os.environ)
        return {"passed": True}

    home = importlib.import_module("app.chaos.run" if bench == "chaos" else f"app.bench.{bench}")
    monkeypatch.setattr(home, f"bench_{bench}", measure)
    (tmp_path / "data").mkdir()
    root_option = ["--root", "data"] if bench == "backlog" else []
    ran = CliRunner().invoke(root, ["bench", bench, "--json", *root_option])
    assert (ran.exit_code, ran.exception) == (0, None), ran.output
    (settings,) = seen
    assert settings.anomaly.precision == "fp16"
    assert settings.embed.weights == Path("w.bin")
    for section in ("folder", "llm", "web", "search", "health"):
        assert getattr(settings, section) == Settings.model_fields[section].default, section
    assert set_here() == before
