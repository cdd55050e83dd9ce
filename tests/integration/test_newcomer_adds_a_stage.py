from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.client import Client
from tests.plant import PRODUCT, draw_part

ROOT = Path(__file__).parents[2]
PATCH = ROOT / "examples" / "serial_stage" / "add-serial-stage.patch"
FOUR_FILES = {
    "consumers/serial/stage.py",
    "schemas/serials.py",
    "schemas/topics.py",
    "app/roles.py",
}
# Runs from the copy: the roles that it starts inherit folder and path.
PROGRAM = """
import asyncio, pathlib, sys
import app
from tests.plant import plant_settings, running_plant

assert pathlib.Path(app.__file__).is_relative_to(pathlib.Path.cwd()), app.__file__

async def main():
    settings = plant_settings(pathlib.Path(sys.argv[1]))
    async with running_plant(settings, roles=("web", "serial")) as running:
        print(running.url, flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files with the example's patch applied."""
    folder = tmp_path_factory.mktemp("newcomer") / "lineside"
    listed = _git("ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    _git("apply", str(PATCH), cwd=folder)
    return folder


def _git(*arguments: str, cwd: Path) -> str:
    # In a checkout around the temporary folder `git apply` would skip the files silently.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(cwd.parent)}
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _environment(copy: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(copy)}


@contextmanager
def _running(copy: Path, state: Path) -> Iterator[str]:
    """Run web and serial from the copy; yields the web role's URL."""
    with (
        (copy / "system.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(state)],
            cwd=copy,
            env=_environment(copy),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as program,
    ):
        try:
            assert program.stdout
            url = program.stdout.readline().strip()
            assert url, (copy / "system.log").read_text("utf-8")
            yield url
        finally:
            program.communicate("stop\n", timeout=60)
    assert program.returncode == 0


def _events(url: str, topic: str, count: int) -> list[dict[str, object]]:
    """The first events of a topic, as the live feed sends them."""
    query = {"topics": topic, "position": "earliest"}
    found: list[dict[str, object]] = []
    with httpx.stream(
        "GET", f"{url}/v1/feed/stream", params=query, timeout=30, trust_env=False
    ) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                message = json.loads(line.removeprefix("data: "))
                if message["type"] == "event":
                    assert message["topic"] == topic
                    found.append(message["event"])
            if len(found) == count:
                break
    return found


def test_the_stage_is_a_diff_of_four_files(copy: Path) -> None:
    rows = _git("apply", "--numstat", str(PATCH), cwd=ROOT).splitlines()
    assert {row.split("\t")[2] for row in rows} == FOUR_FILES
    assert len((copy / "consumers/serial/stage.py").read_text("utf-8").splitlines()) < 40
    changed = {
        str(path.relative_to(copy))
        for path in copy.rglob("*.py")
        if not (ROOT / path.relative_to(copy)).is_file()
        or path.read_bytes() != (ROOT / path.relative_to(copy)).read_bytes()
    }
    assert changed == FOUR_FILES


def test_the_four_files_pass_the_house_rules(copy: Path) -> None:
    ruff = [str(Path(sys.executable).with_name("ruff")), "check", "--no-cache", *FOUR_FILES]
    done = subprocess.run(ruff, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    command = [sys.executable, "-m", "app.cli", "schemas", "export"]
    export = subprocess.run(
        command, cwd=copy, env=_environment(copy), capture_output=True, text=True, check=True
    )
    assert export.stdout == "2 files written\n"
    assert (copy / "schemas" / "json" / "SerialRead.json").is_file()


@pytest.mark.needs_kafka
def test_its_events_flow_beside_the_others(kafka: str, copy: Path, tmp_path: Path) -> None:
    numbers = {f"cap-2026-{number:06}": f"{number:06}" for number in range(3)}
    with _running(copy, tmp_path / "state") as url, Client(url) as client:
        client.put_product(PRODUCT, display_name=PRODUCT)
        for seed, part_id in enumerate(numbers):
            client.call(
                "POST",
                "/v1/images",
                data={"product": PRODUCT, "part_id": part_id},
                files={"file": ("x.jpg", draw_part(seed))},
            )
        read = _events(url, "serials.read", len(numbers))
    serials = {event["subject"]["part_id"]: event["serial"] for event in read}  # type: ignore[index] # JSON
    assert serials == numbers
    assert {event["stage"] for event in read} == {"serial"}


def test_it_passes_what_every_stage_has_to_pass(copy: Path) -> None:
    tests = ["tests/contract/test_every_stage.py", "-k", "serial", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *tests],
        cwd=copy,
        env=_environment(copy),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout
