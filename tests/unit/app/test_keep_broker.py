"""The embedded broker is started again until it is there."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

import app.up
from app.up import keep_broker
from pipeline.errors import ConfigError, StalledError


class Broker:
    """Dead until the fourth try."""

    def __init__(self) -> None:
        self.troubles: list[Exception] = [
            OSError(errno.ENOSPC, "No space left on device"),
            OSError(errno.ENOSPC, "No space left on device"),
            ConfigError("the embedded broker did not start"),
        ]
        self.is_up = asyncio.Event()

    async def wait_died(self) -> None:
        if self.is_up.is_set():
            await asyncio.Future()
        raise StalledError("ended with code 1")

    async def revive(self) -> None:
        if self.troubles:
            raise self.troubles.pop(0)
        self.is_up.set()


async def test_a_broker_is_started_again_also_after_the_disk_was_full(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app.up, "BROKER_RETRY_S", 0.0)
    broker: Any = Broker()
    task = asyncio.create_task(keep_broker(broker))
    done, _ = await asyncio.wait(
        {task, asyncio.create_task(broker.is_up.wait())},
        timeout=10,
        return_when=asyncio.FIRST_COMPLETED,
    )
    assert broker.is_up.is_set(), done
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    # People read these lines: the reason is in them, and they do not come with every try.
    died, away, back = [record.getMessage() for record in caplog.records]
    assert died == "the broker died and is started again"
    assert "No space left on device" in away
    assert back == "the broker is back"
