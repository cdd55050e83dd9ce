"""A mistyped setting is named with the one that was meant."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from app import settings
from app.doctor import _names, _one
from app.settings import Settings, read_settings, unknown_settings
from pipeline.errors import ConfigError


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "_warned", set())


def give(name: str, value: str, monkeypatch: pytest.MonkeyPatch, *, in_file: bool) -> None:
    if in_file:
        Path(".env").write_text(f"{name}={value}\n", "utf-8")
    else:
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LINESIDE_WEB__PROT", "LINESIDE_WEB__PORT"),
        ("LINESIDE_KAFKA__BOOTSTRAP_SERVER", "LINESIDE_KAFKA__BOOTSTRAP_SERVERS"),
        ("LINESIDE_DATABASE__ULR", "LINESIDE_DATABASE__URL"),
    ],
)
@pytest.mark.parametrize("in_file", [False, True])
def test_an_unknown_field_is_refused_with_the_nearest_name(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch, *, in_file: bool
) -> None:
    give(name, "x", monkeypatch, in_file=in_file)
    with pytest.raises(ConfigError, match=rf"{name}: .* did you mean {meant}\?"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LINESIDE_ANOMALI__BACKBONE", "LINESIDE_ANOMALY__BACKBONE"),
        ("LINESIDE_STATEDIR", "LINESIDE_STATE_DIR"),
        ("LINESIDE_WEB_PORT", "LINESIDE_WEB__PORT"),
        ("LINESIDE_TOKENS", "LINESIDE_TOKEN"),
    ],
)
@pytest.mark.parametrize("in_file", [False, True])
async def test_an_unknown_section_is_warned_of_once_and_found_by_the_doctor(
    name: str,
    meant: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    in_file: bool,
) -> None:
    give(name, "hunter2", monkeypatch, in_file=in_file)
    for _ in range(2):
        read_settings()
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert record.getMessage().startswith(f"{name} is no setting and does nothing; did you mean")
    assert f"did you mean {meant}?" in record.getMessage()
    assert "hunter2" not in record.getMessage()
    finding = await _one("settings", _names(Settings()))
    assert (finding.state, finding.detail) == ("warning", record.getMessage())


def test_what_is_far_from_every_name_is_told_without_a_guess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LINESIDE_XYZZY__QUUX", "1")
    assert unknown_settings() == [
        "LINESIDE_XYZZY__QUUX is no setting and does nothing; docs/settings.md lists them"
    ]


def test_names_of_others_are_no_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "LINESIDE_LOG_LEVEL": "DEBUG", "LINESIDE_TOKEN": "x", "LINESIDE_WEB": '{"port": 5001}',
        "lineside_site__timezone": "UTC", "LINESIDE_PORT": "tcp://10.0.0.1:5000",
        "LINESIDE_SERVICE_HOST": "10.0.0.1", "LINESIDE_WEB_SERVICE_PORT": "5000",
        "LINESIDE_WEB_PORT_5000_TCP_ADDR": "10.0.0.1", "LINESIDE_S3_ACCESS_KEY": "x",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert unknown_settings() == []
    assert read_settings().web.port == 5001


def test_another_file_is_read_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("LINESIDE_WEB__PORT=5001\nLINESIDE_ANOMALI__X=1\n", "utf-8")
    Path("plant.env").write_text("LINESIDE_WEB__PORT=5002\n", "utf-8")
    assert read_settings().web.port == 5001
    monkeypatch.setenv("LINESIDE_ENV_FILE", "plant.env")
    assert (read_settings().web.port, unknown_settings()) == (5002, [])
    monkeypatch.setenv("LINESIDE_ENV_FILE", "")
    assert (read_settings().web.port, unknown_settings()) == (5000, [])
    monkeypatch.setenv("LINESIDE_ENV_FILE", "gone.env")
    with pytest.raises(ConfigError, match=r"LINESIDE_ENV_FILE=gone\.env"):
        read_settings()
