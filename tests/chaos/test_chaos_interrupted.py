from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.plant import write_product

LIMIT_S = 90.0


def _children_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def _left_in(folder: Path) -> list[Path]:
    # Importing torch makes a folder for compiled code, one a user.
    return [one for one in folder.iterdir() if not one.name.startswith("torchinductor_")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A product for the benches that take one."""
    return write_product(tmp_path / "data", normals=20, defects=4)


def _chaos(_data: Path) -> list[str]:
    return ["chaos", "--minutes", "1"]


def _backlog(data: Path) -> list[str]:
    return ["backlog", "--images", "40", "--root", str(data)]


@pytest.mark.needs_kafka
@pytest.mark.parametrize(
    ("bench", "last_words"),
    [
        # Brokers and servers run, roles are starting: the most that can be left behind.
        (_chaos, "roles"),
        (_backlog, "roles"),
        # A thread of its own teaches, and cannot be cancelled.
        (_backlog, "teaching the products"),
        (_backlog, "starting anomaly, embed, record"),
    ],
)
async def test_ctrl_c_stops_a_bench_and_leaves_nothing_behind(
    tmp_path: Path, data: Path, bench: Callable[[Path], list[str]], last_words: str
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.cli", "bench", *bench(data)),
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert run.stderr is not None
    async with asyncio.timeout(LIMIT_S):
        while not (line := await run.stderr.readline()).decode().rstrip().endswith(last_words):
            assert line, "it ended before its roles started"
        children = _children_of(run.pid)
        assert children
        run.send_signal(signal.SIGINT)
        await run.stderr.read()
        assert await run.wait() == 130
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert gone
    assert _left_in(temporary) == []
