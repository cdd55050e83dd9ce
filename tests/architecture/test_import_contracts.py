import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "schemas", "pipeline", "adapters", "producers", "consumers", "notifier", "console", "app",
)  # fmt: skip


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages, to plant wrong imports in."""
    folder = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("node_modules", "dist", "__pycache__", "web")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for stage in (folder / "consumers").iterdir():
        if stage.is_dir():
            (stage / "__init__.py").touch()  # a stage of one file has none, and would go unseen
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_tree_keeps_its_contracts(tree: Path) -> None:
    result = _lint(tree)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("pipeline/planted.py", "import adapters.objects", "layers"),
        ("producers/planted.py", "import notifier.hub", "layers"),
        ("consumers/embed/planted.py", "import consumers.anomaly.stage", "stages do not know"),
        ("consumers/llm/planted.py", "import aiokafka", "clients only in adapters"),
        ("notifier/planted.py", "import torch", "models only in their stage"),
        ("adapters/planted.py", "import fastapi", "fastapi only at the edges"),
    ],
)
def test_a_planted_wrong_import_fails_the_check(
    tree: Path, file: str, line: str, contract: str
) -> None:
    planted = tree / file
    planted.write_text(f'"""Planted."""\n\n{line}\n', "utf-8")
    try:
        result = _lint(tree)
    finally:
        planted.unlink()
    assert result.returncode != 0
    broken = [text for text in result.stdout.splitlines() if "BROKEN" in text]
    assert any(contract in text for text in broken), result.stdout
