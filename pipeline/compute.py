"""The one compute thread: the event loop stays free while a batch computes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol

_NICEST = 19


class Compute(Protocol):
    """Runs plain functions one at a time."""

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return what `function(*args)` returns, or raise what it raises."""
        ...

    def close(self) -> None:
        """Take nothing more; what still runs is abandoned, its result is dropped."""
        ...


class InlineCompute:
    """On the event loop: for stages that compute nothing, it saves the hop (40 µs)."""

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call at once."""
        return function(*args)

    def close(self) -> None:
        """Nothing to close."""


class ComputeThread:
    """A daemon thread: one that hangs in a model cannot keep the process from ending.

    With a niceness it and the threads that a model starts from it give way to the rest of the
    machine: where cores are few, a model that fills them all delays each hop of each image.
    """

    def __init__(self, name: str, niceness: int = 0) -> None:
        """`name` shows in debuggers and profilers; `niceness` is added to the process's own."""
        self._name = name
        self._niceness = niceness
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
        _give_way(self._niceness)
        while (job := self._jobs.get()) is not None:
            job()


def _give_way(niceness: int) -> None:
    """Lower the priority of this thread alone, where the system can (Linux)."""
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        lowered = min(_NICEST, os.getpriority(os.PRIO_PROCESS, thread) + niceness)
        os.setpriority(os.PRIO_PROCESS, thread, lowered)


def _settle(answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
