from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import pytest

from pipeline.errors import ConfigError, StalledError
from pipeline.lifecycle import run_services
from tests.services import until


class Piece:
    """A service made of a function."""

    def __init__(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self.name = name
        self._work = work

    async def run(self) -> None:
        await self._work()

    def not_ready(self) -> tuple[str, ...]:
        return ()


class Endless:
    """Runs until cancelled and notes what happened; its cleanup takes `cleanup_s`."""

    name = "endless"

    def __init__(self, cleanup_s: float = 0.0) -> None:
        self.started = asyncio.Event()
        self.events: list[str] = []
        self._cleanup_s = cleanup_s

    async def run(self) -> None:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.events.append("draining")
            await asyncio.sleep(self._cleanup_s)
            self.events.append("drained")

    def not_ready(self) -> tuple[str, ...]:
        return ()


async def _signal_when_started(endless: Endless, number: int) -> None:
    await endless.started.wait()
    os.kill(os.getpid(), number)


async def test_services_that_end_by_themselves_are_a_success() -> None:
    async def nothing() -> None:
        await asyncio.sleep(0)

    assert await run_services([Piece("a", nothing), Piece("b", nothing)]) == 0
    assert await run_services([]) == 0


async def test_sigterm_lets_every_service_finish_in_order() -> None:
    endless = Endless(cleanup_s=0.01)
    asked = asyncio.create_task(_signal_when_started(endless, signal.SIGTERM))
    assert await run_services([endless]) == 0
    assert endless.events == ["draining", "drained"]
    await asked


async def test_ctrl_c_ends_with_the_code_that_shells_expect() -> None:
    endless = Endless()
    asked = asyncio.create_task(_signal_when_started(endless, signal.SIGINT))
    assert await run_services([endless]) == 130
    await asked


async def test_a_failing_service_stops_the_others_and_is_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    endless = Endless()

    async def fail() -> None:
        await endless.started.wait()
        raise StalledError("the log is gone; start it again")

    assert await run_services([endless, Piece("reader", fail)]) == 1
    assert endless.events == ["draining", "drained"]
    failures = [record for record in caplog.records if record.msg == "service failed"]
    assert [record.__dict__["service"] for record in failures] == ["reader"]
    assert failures[0].__dict__["error"] == "the log is gone; start it again"


async def test_a_failure_while_stopping_is_still_a_failure() -> None:
    endless = Endless()

    async def fail_late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ConfigError("left open")

    asked = asyncio.create_task(_signal_when_started(endless, signal.SIGTERM))
    assert await run_services([endless, Piece("late", fail_late)]) == 1
    await asked


async def test_a_second_signal_ends_the_process_at_once() -> None:
    endless = Endless(cleanup_s=0.2)
    codes: list[int] = []

    async def twice() -> None:
        await _signal_when_started(endless, signal.SIGTERM)
        await until(lambda: bool(endless.events), "draining begins")
        os.kill(os.getpid(), signal.SIGTERM)

    asking = asyncio.create_task(twice())
    await run_services([endless], exit_now=codes.append)
    assert codes == [143]
    await asking


async def test_a_service_that_ignores_the_deadline_is_ended_for_good() -> None:
    endless = Endless(cleanup_s=0.2)
    codes: list[int] = []
    asked = asyncio.create_task(_signal_when_started(endless, signal.SIGTERM))
    await run_services([endless], deadline_s=0.05, exit_now=codes.append)
    assert codes == [1]
    await asked


async def test_signals_are_the_programs_again_afterwards() -> None:
    await run_services([])
    loop = asyncio.get_running_loop()
    assert not loop.remove_signal_handler(signal.SIGTERM)
    assert not loop.remove_signal_handler(signal.SIGINT)


async def test_a_cancellation_that_nobody_asked_for_is_a_failure_and_no_quiet_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def leak() -> None:
        inner = asyncio.ensure_future(asyncio.sleep(60))
        inner.cancel()
        await inner

    endless = Endless()
    assert await run_services([Piece("feed", leak), endless]) == 1
    assert endless.events == ["draining", "drained"]
    (told,) = caplog.records
    assert "nobody asked for" in told.__dict__["error"]
