"""The one compute thread: the event loop stays free while a batch computes."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol


class Compute(Protocol):
    """Runs plain functions one at a time."""

    @property
    def is_aside(self) -> bool:
        """Whether the event loop is free meanwhile."""
        ...

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return what `function(*args)` returns, or raise what it raises."""
        ...

    def close(self) -> None:
        """Take nothing more; what still runs is abandoned, its result is dropped."""
        ...


class InlineCompute:
    """On the event loop: for stages that compute nothing, it saves the hop (40 µs)."""

    is_aside = False

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call at once."""
        return function(*args)

    def close(self) -> None:
        """Nothing to close."""


class ComputeThread:
    """A daemon thread: one that hangs in a model cannot keep the process from ending."""

    is_aside = True

    def __init__(self, name: str) -> None:
        """`name` shows in debuggers and profilers."""
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call on the thread, which starts with the first call."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()

        def job() -> None:
            try:
                result, error = function(*args), None
            except Exception as raised:  # noqa: BLE001 - handed to whoever awaits
                result, error = None, raised
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(_settle, answer, result, error)

        self._jobs.put(job)
        return await answer

    def close(self) -> None:
        """Let the thread end after what it is doing."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread = None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _settle(answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
