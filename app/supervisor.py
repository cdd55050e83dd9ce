"""Every role on one machine: child processes, restarted when one dies, stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

# A role that dies again and again is started at most this often; the first restart is at once.
RESTART_DELAYS_S = (0.2, 1.0, 2.0, 4.0)
# A role that lived this long is healthy: its next death counts as the first.
HEALTHY_AFTER_S = 30.0
# Longer than any role's drain budget.
STOP_DEADLINE_S = 15.0
LOG_LIMIT_BYTES = 20_000_000
PARENT_VARIABLE = "LINESIDE_PARENT_PID"

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """In a child: ask the kernel for SIGTERM when the supervisor goes, however it goes (Linux)."""
    parent = os.environ.get(PARENT_VARIABLE)
    if not parent or sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it died before we asked
        os.kill(os.getpid(), signal.SIGTERM)


@dataclass
class Child:
    """One role's process and its history."""

    role: str
    command: tuple[str, ...]
    process: asyncio.subprocess.Process | None = None
    started_at: float = 0.0
    restarts: int = 0
    failures_in_a_row: int = 0
    last_exit_code: int | None = None


@dataclass
class Supervisor:
    """Keeps a set of roles running below one state folder.

    Args:
        state_dir: logs go to `logs/<role>.log`, pids to `supervisor.json`.
        environment: variables that every child gets beside the caller's own.
    """

    state_dir: Path
    environment: Mapping[str, str]
    children: dict[str, Child] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _stopping: bool = False

    def start(self, role: str, *command: str) -> None:
        """Start a role and keep it running until `stop`."""
        child = Child(role, command)
        self.children[role] = child
        self._tasks.append(asyncio.create_task(self._keep(child), name=f"keep-{role}"))

    async def stop(self) -> None:
        """Ask every role to drain, wait for it, and end what does not listen."""
        self._stopping = True
        running = [c.process for c in self.children.values() if c.process and not _ended(c.process)]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        if running:
            waits = [asyncio.create_task(process.wait()) for process in running]
            _, late = await asyncio.wait(waits, timeout=STOP_DEADLINE_S)
            for process in running:
                if not _ended(process):
                    process.kill()
            if late:
                await asyncio.wait(late)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._write()

    async def _keep(self, child: Child) -> None:
        while not self._stopping:
            try:
                await self._run_once(child)
            except OSError as error:  # no room for a log, no process to be had: that may pass
                child.started_at = time.monotonic()
                fields = {"action": "role_not_started", "role": child.role}
                logger.warning("a role cannot be started: %s", error, extra=fields)
            if self._stopping:
                return
            lived_s = time.monotonic() - child.started_at
            child.failures_in_a_row = (
                0 if lived_s > HEALTHY_AFTER_S else child.failures_in_a_row + 1
            )
            step = min(child.failures_in_a_row, len(RESTART_DELAYS_S) - 1)
            child.restarts += 1
            logger.warning(
                "a role died and is started again",
                extra={
                    "action": "role_died",
                    "role": child.role,
                    "exit_code": child.last_exit_code,
                },
            )
            self._write()
            await asyncio.sleep(RESTART_DELAYS_S[step])

    async def _run_once(self, child: Child) -> None:
        with self._open_log(child.role) as log:
            child.process = await asyncio.create_subprocess_exec(
                *child.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Its own session: Ctrl-C reaches the supervisor alone, which stops in order.
                start_new_session=True,
                env={**os.environ, **self.environment, PARENT_VARIABLE: str(os.getpid())},
            )
        child.started_at = time.monotonic()
        self._write()
        child.last_exit_code = await child.process.wait()

    def _open_log(self, role: str) -> IO[bytes]:
        folder = self.state_dir / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{role}.log"
        if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))
        return path.open("ab")

    def _write(self) -> None:
        """Tell `lineside status` what runs, atomically; where that fails, roles go on all the same.

        A full disk would else end the keeper of a role, and with it every later start of it.
        """
        roles = {
            child.role: {
                "pid": child.process.pid if child.process and not _ended(child.process) else None,
                "restarts": child.restarts,
                "last_exit_code": child.last_exit_code,
            }
            for child in self.children.values()
        }
        path = self.state_dir / "supervisor.json"
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps({"pid": os.getpid(), "roles": roles}), "utf-8")
            temporary.replace(path)
        except OSError as error:
            fields = {"action": "status_not_written"}
            logger.warning("what runs cannot be noted for `status`: %s", error, extra=fields)


def _ended(process: asyncio.subprocess.Process) -> bool:
    return process.returncode is not None
