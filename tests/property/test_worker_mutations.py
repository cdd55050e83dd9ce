"""Each mutation of the worker turns the test red that makes the promise it breaks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.property.worker_mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[2]
_COPIED = ("pipeline", "schemas", "adapters/memory", "tests/scenario", "tests/property")
_FILES = ("adapters/__init__.py", "adapters/clock.py", "pyproject.toml", "tests/worker_rig.py")
_LIMIT_S = 60


def _copy(to: Path) -> None:
    skip = shutil.ignore_patterns("__pycache__", ".hypothesis")
    for folder in _COPIED:
        shutil.copytree(ROOT / folder, to / folder, ignore=skip)
    for file in _FILES:
        shutil.copy(ROOT / file, to / file)


def _outcome(mutation: Mutation, folder: Path) -> str | None:
    """Run the promised test on a mutated copy; return what is wrong, None if it was caught."""
    _copy(folder)
    path = folder / mutation.file
    source = path.read_text()
    if mutation.shipped not in source:
        return f"{mutation.file} holds no line {mutation.shipped!r} any more"
    path.write_text(source.replace(mutation.shipped, mutation.mutant))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--noconftest", "-p", "no:cacheprovider"]
    try:
        run = subprocess.run(
            [*command, mutation.caught_by],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the test hangs for {_LIMIT_S} s"
    # 1 is a failed test; 2 to 5 mean that it was not found or could not start.
    return None if run.returncode == 1 else f"exit {run.returncode}: {run.stdout[-800:]}"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """What became of every mutation; two at a time, since most of it is starting Python."""
    folders = [tmp_path_factory.mktemp("mutant") for _ in MUTATIONS]
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(_outcome, MUTATIONS, folders)
        return dict(zip([one.name for one in MUTATIONS], found, strict=True))


@pytest.mark.parametrize("name", [one.name for one in MUTATIONS])
def test_a_mutated_worker_breaks_its_promise(name: str, outcomes: dict[str, str | None]) -> None:
    assert outcomes[name] is None


def test_each_mutation_changes_one_place_or_more_and_names_a_test() -> None:
    assert len({one.name for one in MUTATIONS}) == len(MUTATIONS) >= 10
    for one in MUTATIONS:
        file, _, name = one.caught_by.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text()
