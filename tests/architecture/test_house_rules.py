import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN_NAMES = {
    "utils", "common", "helpers", "base", "manager", "misc", "core", "shared", "types",
}  # fmt: skip
LONGEST_FILE = 400
FOUR_FILES = (
    "schemas/topics.py",
    "consumers/embed/stage.py",
    "pipeline/worker.py",
    "app/roles.py",
)
PACKAGES = (
    "schemas",
    "pipeline",
    "adapters",
    "producers",
    "consumers",
    "notifier",
    "console",
    "app",
)


def _sources() -> list[Path]:
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return [path for path in found if "node_modules" not in path.parts]


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [p for p in _sources() if p.stem in FORBIDDEN_NAMES] == []


def test_no_file_is_longer_than_a_reader_takes_in() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in [*_sources(), *(ROOT / "tests").rglob("*.py")]
        if (count := len(path.read_text("utf-8").splitlines())) > LONGEST_FILE
    }
    assert long == {}


def test_a_newcomer_reads_four_short_files() -> None:
    lengths = {
        name: len((ROOT / name).read_text("utf-8").splitlines())
        for name in (
            "schemas/topics.py",
            "consumers/embed/stage.py",
            "pipeline/worker.py",
            "app/roles.py",
        )
    }
    assert sum(lengths.values()) <= 800, lengths


@pytest.mark.parametrize(
    "module",
    [
        "schemas.topics",
        "pipeline.worker",
        "notifier.gateway",
        "console.api",
        "producers.upload_api",
        "consumers.llm.stage",
        "app.cli",
    ],
)
def test_a_role_without_models_imports_none(module: str) -> None:
    code = (
        f"import {module}, sys; models = "
        "{'torch', 'open_clip', 'timm', 'faiss', 'cv2', 'transformers'}; "
        "heavy = models & sys.modules.keys(); "
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_every_ignored_lint_rule_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    block = text[text.index("ignore = [") :]
    lines = block[: block.index("]")].splitlines()[1:]
    assert lines
    assert [line for line in lines if line.strip() and "#" not in line] == []


def test_locks_are_hashed_and_name_no_address() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text("utf-8")
        assert "://" not in text
        pins = [line for line in text.splitlines() if line[:1].isalnum()]
        assert pins
        assert text.count("--hash=sha256:") >= len(pins)


def test_the_lock_holds_every_direct_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lock = (ROOT / "requirements.lock").read_text("utf-8").lower()
    for wanted in project["dependencies"]:
        name = wanted.split("[")[0].split(">")[0].split("<")[0].lower()
        assert f"\n{name}==" in f"\n{lock}", name
