"""Life of a process: services that run until one fails or a signal asks all to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from pipeline.errors import LinesideError, StalledError

logger = logging.getLogger(__name__)

FAILED = 1
_BY_SIGNAL = 128


class Service(Protocol):
    """Something that runs. Constructors only assign; `run` opens, works, and cleans up."""

    name: str

    async def run(self) -> None:
        """Run until cancelled; cancellation means: finish in order, within the drain budget."""
        ...

    def not_ready(self) -> Sequence[str]:
        """Reasons why it cannot work right now, none when it can."""
        ...


async def run_services(
    services: Sequence[Service],
    *,
    stop_signals: Sequence[int] = (signal.SIGTERM, signal.SIGINT),
    deadline_s: float = 45.0,
    exit_now: Callable[[int], object] = os._exit,
) -> int:
    """Run services until all are done, one fails, or a signal asks to stop; returns the exit code.

    The first signal, or a failure, cancels all services; each finishes in order within its own
    budget. After `deadline_s`, or on a second signal, the process ends as it stands: nothing is
    lost by that, since what was not committed is delivered again.

    Args:
        services: what to run; empty is done at once.
        stop_signals: which signals ask to stop.
        deadline_s: longest time from the first signal or failure to the end.
        exit_now: ends the process at once; a test watches instead.
    """
    stop = _Stop(deadline_s, exit_now)
    failed = False
    with stop.listening(stop_signals):
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(_run(one, stop), name=one.name) for one in services]
                watch = group.create_task(stop.wait(), name="stop")
                if running:
                    await asyncio.wait(running)
                watch.cancel()
        except* _StopAskedError:
            logger.info("stopped", extra={"action": "stopped", "exit_code": stop.exit_code})
        except* Exception:  # noqa: BLE001 - `_run` has said what happened, where it happened
            failed = True
    return FAILED if failed else stop.exit_code


async def _run(service: Service, stop: _Stop) -> None:
    try:
        await _run_uncancelled(service)
    except LinesideError as error:
        stop.start_countdown()
        logger.error(  # noqa: TRY400 - the sentence says what to do; a traceback would hide it
            "service failed",
            extra={"action": "service_failed", "service": service.name, "error": str(error)},
        )
        raise
    except Exception:
        stop.start_countdown()
        logger.exception(
            "service failed", extra={"action": "service_failed", "service": service.name}
        )
        raise


async def _run_uncancelled(service: Service) -> None:
    """Turn a cancellation that nobody asked for into a failure.

    A task group takes a cancelled child for one that ended well: a service whose client library
    let a CancelledError of its own escape would be gone without a word.
    """
    try:
        await service.run()
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        detail = "ended by a cancellation that nobody asked for; the role starts again"
        raise StalledError(f"{service.name}: {detail}") from error


class _StopAskedError(Exception):
    """A signal asked the process to stop."""


class _Stop:
    """Signals and the countdown to the hard end."""

    def __init__(self, deadline_s: float, exit_now: Callable[[int], object]) -> None:
        self.exit_code = 0
        self._deadline_s = deadline_s
        self._exit_now = exit_now
        self._asked = asyncio.Event()
        self._countdown: asyncio.TimerHandle | None = None

    @contextmanager
    def listening(self, numbers: Sequence[int]) -> Iterator[None]:
        """Take the signals over for as long as the context lasts."""
        loop = asyncio.get_running_loop()
        for number in numbers:
            loop.add_signal_handler(number, self.hear, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
            if self._countdown is not None:
                self._countdown.cancel()

    def hear(self, number: int) -> None:
        """Stop in order on the first signal, at once on the second."""
        # SIGTERM is how a stop is ordered; for all others the code is what shells expect.
        code = 0 if number == signal.SIGTERM else _BY_SIGNAL + number
        if self._asked.is_set():
            logger.warning("second signal, ending now", extra={"action": "stop_forced"})
            self._exit_now(_BY_SIGNAL + number)
            return
        self.exit_code = code
        self._asked.set()
        self.start_countdown()

    async def wait(self) -> None:
        """Raise when a signal came, so that the task group cancels the services."""
        await self._asked.wait()
        raise _StopAskedError

    def start_countdown(self) -> None:
        """End the process for good if it is still there at the deadline."""
        if self._countdown is None:
            loop = asyncio.get_running_loop()
            self._countdown = loop.call_later(self._deadline_s, self._end)

    def _end(self) -> None:
        logger.error("services did not stop in time", extra={"action": "stop_timed_out"})
        self._exit_now(FAILED)
