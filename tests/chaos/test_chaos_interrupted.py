from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

LIMIT_S = 90.0


def _children_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def _left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@pytest.mark.needs_kafka
async def test_ctrl_c_stops_a_chaos_run_and_leaves_nothing_behind(tmp_path: Path) -> None:
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.cli", "bench", "chaos", "--minutes", "1"),
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert run.stderr is not None
    async with asyncio.timeout(LIMIT_S):
        # Brokers and servers run, roles are starting: the most that can be left behind.
        while (line := await run.stderr.readline()) != b"roles\n":
            assert line, "it ended before its roles started"
        children = _children_of(run.pid)
        assert len(children) >= 3
        run.send_signal(signal.SIGINT)
        await run.stderr.read()
        assert await run.wait() == 130
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert gone
    assert _left_in(tmp_path) == []
