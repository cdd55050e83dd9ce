"""Apache Kafka as a child process: KRaft, one node (three in tests), data under the state folder.

The broker dies with the process that opened it; its data is kept. Settings follow
architecture.md section 6 and the measurements in streaming.md sections 7 and 10.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil

from adapters.embedded_node import (
    Node,
    allocate_ports,
    check_log_room,
    die_with_parent,
    format_storage,
    free_ports,
    java_command,
    read_log_tail,
    write_properties,
)
from adapters.kafka.admin import count_brokers
from adapters.kafka_runtime import default_cache_dir, find_jars, find_java
from pipeline.errors import ConfigError, StalledError

logger = logging.getLogger(__name__)

_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 8.0
_POLL_S = 0.05


class EmbeddedBroker:
    """An Apache Kafka that lives as long as its context.

    Inside the context `bootstrap_servers` is where clients connect, and `broker.json` in the
    state folder tells other processes. `nodes=3` starts a cluster for tests of broker loss.
    `advertise` puts a proxy before each node: told the node, it returns the port where the proxy
    listens for its clients; nodes talk to each other without it.
    """

    name = "broker"

    def __init__(
        self,
        state_dir: Path,
        *,
        port: int | None = None,
        nodes: int = 1,
        cache_dir: Path | None = None,
        advertise: Callable[[Node], int] | None = None,
    ) -> None:
        """Name where data lies; `port` None takes the last one, or a free one."""
        self._state_dir = state_dir.resolve()
        self._data_dir = self._state_dir / "kafka"
        self._port = port
        self._node_count = nodes
        self._cache_dir = cache_dir or default_cache_dir()
        self._advertise = advertise
        self._nodes: list[Node] = []
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._lock: IO[str] | None = None
        self._command: list[str] = []
        self._cluster_id = ""

    @property
    def bootstrap_servers(self) -> str:
        """Addresses of all nodes for clients, `host:port,…`."""
        return ",".join(f"127.0.0.1:{node.front_port or node.port}" for node in self._nodes)

    @property
    def direct_servers(self) -> str:
        """Addresses of all nodes past any proxy, `host:port,…`."""
        return ",".join(f"127.0.0.1:{node.peer_port or node.port}" for node in self._nodes)

    @property
    def pids(self) -> list[int]:
        """Process ids of the nodes that were started."""
        return list(self.pid_of_node.values())

    @property
    def pid_of_node(self) -> dict[int, int]:
        """Process ids by the number of their node, of those that were started."""
        return {number: process.pid for number, process in self._processes.items()}

    async def __aenter__(self) -> Self:
        """Start, and return when the broker answers.

        Raises:
            ConfigError: one line: no Java, no jars, the port or the folder is in use, disk full.
        """
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop cleanly; what does not stop in time is killed. The data stays."""
        await self._close()

    async def run(self) -> None:
        """Run as a service until cancelled.

        Raises:
            StalledError: a node died by itself.
        """
        async with self:
            await self.wait_died()

    def not_ready(self) -> list[str]:
        """Say why the broker cannot be used, nothing when it can."""
        alive = [number for number, process in self._processes.items() if process.poll() is None]
        return [] if len(alive) == self._node_count else ["the embedded broker is not running"]

    async def wait_died(self) -> None:
        """Return only by raising, when a node that was not killed through `kill_node` died.

        Raises:
            StalledError: it names the node and the last lines that it wrote.
        """
        while True:
            for number, process in self._processes.items():
                if process.poll() is not None:
                    raise StalledError(
                        f"the embedded broker's node {number} ended with code "
                        f"{process.returncode}: {read_log_tail(self._nodes[number - 1])}"
                    )
            await asyncio.sleep(0.2)

    def kill_node(self, number: int) -> None:
        """SIGKILL node `number`, counted from 1, as a power cut would; its data stays."""
        process = self._processes.pop(number)
        process.kill()
        process.wait()

    async def start_node(self, number: int) -> None:
        """Start a killed node again; it listens some seconds later, see `wait_ready`."""
        self._spawn(self._nodes[number - 1])

    async def revive(self) -> None:
        """Start the nodes that died by themselves again, and wait until they answer.

        Raises:
            ConfigError: a node does not come back; its last lines say why, or the disk is full.
        """
        for node in self._nodes:
            process = self._processes.get(node.number)
            if process is not None and process.poll() is not None:
                self._spawn(node)
        try:
            await self.wait_ready()
        except ConfigError:
            check_log_room(self._data_dir)  # in one line, where Kafka prints a long trace
            raise
        self._announce()

    async def wait_ready(self) -> None:
        """Wait until every started node has joined the cluster and answers.

        Raises:
            ConfigError: a node ended, or did not answer within a minute.
        """
        deadline = time.monotonic() + _START_LIMIT_S
        while await count_brokers(self.direct_servers) < len(self._processes):
            self._raise_if_ended()
            if time.monotonic() > deadline:
                tail = read_log_tail(self._nodes[0])
                raise ConfigError(f"the embedded broker does not answer; it last wrote: {tail}")
            await asyncio.sleep(_POLL_S)

    async def _open(self) -> None:
        self._take_lock()
        java = await asyncio.to_thread(find_java)
        jars = await asyncio.to_thread(find_jars, self._cache_dir)
        self._command = java_command(java, jars)
        self._end_leftovers()
        self._nodes = allocate_ports(self._data_dir, self._node_count, self._port)
        if self._advertise is not None:
            peers = free_ports([0] * self._node_count)
            self._nodes = [
                replace(node, front_port=self._advertise(node), peer_port=peer)
                for node, peer in zip(self._nodes, peers, strict=True)
            ]
        for node in self._nodes:
            write_properties(node, self._nodes)
        self._cluster_id = await asyncio.to_thread(format_storage, self._command, self._nodes)
        for node in self._nodes:
            self._spawn(node)
        await self.wait_ready()
        self._announce()
        logger.info(
            "embedded broker answers",
            extra={"action": "broker_started", "bootstrap_servers": self.bootstrap_servers},
        )

    def _take_lock(self) -> None:
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            self._lock = (self._state_dir / "broker.lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{self._state_dir} is in use by another broker; stop it, "
                "or set LINESIDE_STATE_DIR to another folder"
            ) from None
        except OSError as error:
            raise ConfigError(f"{self._state_dir}: cannot keep the log there: {error}") from None

    def _end_leftovers(self) -> None:
        """End a node whose parent died where the system does not do that for us."""
        marker = str(self._data_dir)
        for pid in _announced_pids(self._state_dir / "broker.json"):
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                if any(marker in part for part in process.cmdline()):
                    process.kill()
                    process.wait(timeout=_STOP_LIMIT_S)

    def _spawn(self, node: Node) -> None:
        node.folder.mkdir(parents=True, exist_ok=True)
        with node.log_path.open("wb") as log:
            self._processes[node.number] = subprocess.Popen(  # noqa: S603 - our own command
                [*self._command, "kafka.Kafka", str(node.properties_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal must not stop it before its users
                preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )

    def _raise_if_ended(self) -> None:
        for number, process in self._processes.items():
            if process.poll() is not None:
                tail = read_log_tail(self._nodes[number - 1])
                raise ConfigError(f"the embedded broker did not start: {tail}")

    def _announce(self) -> None:
        path = self._state_dir / "broker.json"
        draft = path.with_suffix(".draft")
        facts = {
            "bootstrap_servers": self.bootstrap_servers,
            "cluster_id": self._cluster_id,
            "pid": self.pids[0],
            "pids": self.pids,
            "parent_pid": os.getpid(),
        }
        draft.write_text(json.dumps(facts), "utf-8")
        draft.replace(path)

    async def _close(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_LIMIT_S):
                await asyncio.gather(*(_ended(process) for process in self._processes.values()))
        for process in self._processes.values():
            process.kill()
            process.wait()
        if self._processes:
            (self._state_dir / "broker.json").unlink(missing_ok=True)
        self._processes.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def read_broker_file(state_dir: Path) -> str | None:
    """Return the bootstrap servers of the embedded broker that runs on a state folder, or None."""
    path = state_dir / "broker.json"
    try:
        facts = json.loads(path.read_text("utf-8"))
        alive = all(psutil.pid_exists(pid) for pid in facts["pids"])
        return str(facts["bootstrap_servers"]) if alive else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _announced_pids(path: Path) -> list[int]:
    try:
        return [int(pid) for pid in json.loads(path.read_text("utf-8"))["pids"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


async def _ended(process: subprocess.Popen[bytes]) -> None:
    # A child's end has no event to wait for that works with every event loop.
    while process.poll() is None:  # noqa: ASYNC110 - see above
        await asyncio.sleep(_POLL_S)
