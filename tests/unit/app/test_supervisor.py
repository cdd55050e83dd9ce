"""A role is started again, whatever becomes of the supervisor's own notes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

import app.supervisor
from app.supervisor import Supervisor


async def until_restarted(supervisor: Supervisor, count: int) -> None:
    async with asyncio.timeout(20):
        while supervisor.children["cap"].restarts < count:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    monkeypatch.setattr(app.supervisor, "RESTART_DELAYS_S", (0.0,))
    return Supervisor(tmp_path, {})


async def test_a_role_is_started_again_where_nothing_can_be_noted(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    # As a full disk does: every write of the note fails.
    (supervisor.state_dir / "supervisor.tmp").mkdir()
    supervisor.start("cap", sys.executable, "-c", "")
    await until_restarted(supervisor, 2)
    await supervisor.stop()
    assert "what runs cannot be noted" in caplog.text


async def test_a_role_that_cannot_be_started_is_tried_again(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    logs = supervisor.state_dir / "logs"
    logs.write_text("a file in the way of the folder")
    supervisor.start("cap", sys.executable, "-c", "import time; time.sleep(60)")
    await until_restarted(supervisor, 2)
    assert "a role cannot be started" in caplog.text
    logs.unlink()
    async with asyncio.timeout(20):
        while supervisor.children["cap"].process is None:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    await supervisor.stop()
    assert supervisor.children["cap"].process is not None
