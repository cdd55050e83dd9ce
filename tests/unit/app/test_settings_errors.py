from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import read_settings
from pipeline.errors import ConfigError

SECRET = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def _no_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_wrong_value_is_named_with_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINESIDE_LLM__KIND", "vllm")
    with pytest.raises(ConfigError, match=r"LINESIDE_LLM__KIND=vllm: .*'tgi' or 'openai'"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LINESIDE_LLM__APIKEY", SECRET),
        ("LINESIDE_DATABASE__DSN", f"postgresql+asyncpg://plant:{SECRET}@db/lineside"),
        ("LINESIDE_WEB__TOKENS", f'{{"first": "{SECRET}"}}'),
        ("LINESIDE_OBJECTS", f'{{"secret_key": ["{SECRET}"]}}'),
        ("LINESIDE_OBJECTS", f'{{"access_key": ["{SECRET}"]}}'),
        ("LINESIDE_DATABASE", f'{{"url": ["{SECRET}"]}}'),
    ],
)
def test_a_credential_in_the_wrong_place_is_refused_and_not_shown(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name) as refused:
        read_settings()
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("name", ["LINESIDE_WEB__TOKENS", "LINESIDE_OBJECTS__ALLOWED_PREFIXES"])
def test_a_list_that_is_no_json_is_one_line_that_shows_how(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, SECRET)
    with pytest.raises(ConfigError, match=rf'{name}.*: write a list as JSON, such as \["one"'):
        read_settings()


def test_a_section_that_is_no_json_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINESIDE_LLM", SECRET)
    with pytest.raises(ConfigError, match=r"llm.*one by one") as refused:
        read_settings()
    assert SECRET not in str(refused.value)
