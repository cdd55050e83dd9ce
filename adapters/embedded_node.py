"""One node of the embedded broker: its folder, ports, properties and storage format."""

from __future__ import annotations

import base64
import ctypes
import errno
import json
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError
from schemas.topics import DAY_MS, TOPICS

# Java heap of a node. With code, threads and mapped indexes a node takes about 100 MB more.
HEAP_MB = 256
_LEAST_FREE_BYTES = 500_000_000
_MINUTES_A_DAY = 1440


@dataclass(frozen=True, slots=True)
class Node:
    """Number from 1, folder, and the loopback ports of a node.

    Where clients come through a proxy, `front_port` is what they are told, and `peer_port` where
    nodes and whoever wants to pass the proxy by connect.
    """

    number: int
    folder: Path
    port: int
    controller_port: int
    front_port: int | None = None
    peer_port: int | None = None

    @property
    def properties_path(self) -> Path:
        """Where the node's settings are written."""
        return self.folder / "server.properties"

    @property
    def log_path(self) -> Path:
        """What the node prints, from its last start on."""
        return self.folder / "broker.log"


def check_log_room(data_dir: Path) -> None:
    """Say it when the disk is too full for a broker; Kafka itself ends with a long trace.

    Raises:
        ConfigError: names the folder, what is free and what is needed.
    """
    free_bytes = shutil.disk_usage(data_dir).free
    if free_bytes < _LEAST_FREE_BYTES:
        raise ConfigError(
            f"{data_dir}: only {free_bytes // 1_000_000} MB free for the log; "
            f"make room ({_LEAST_FREE_BYTES // 1_000_000} MB), or set LINESIDE_STATE_DIR"
        )


def allocate_ports(data_dir: Path, count: int, port: int | None) -> list[Node]:
    """Choose ports: the asked one, else those of the last run where free, else free ones.

    Raises:
        ConfigError: the asked port is in use, or the disk is full.
    """
    check_log_room(data_dir)
    memory = data_dir / "ports.json"
    wanted = _remembered(memory, count)
    if port is not None:
        if not _is_free(port):
            raise ConfigError(
                f"LINESIDE_KAFKA__EMBEDDED_PORT={port}: port {port} is in use; "
                "set another one, or unset it to take any free port"
            )
        wanted[0] = port
    chosen = free_ports(wanted)
    memory.write_text(json.dumps(chosen), "utf-8")
    return [
        Node(
            number + 1, data_dir / f"node-{number + 1}", chosen[2 * number], chosen[2 * number + 1]
        )
        for number in range(count)
    ]


def _remembered(memory: Path, count: int) -> list[int]:
    try:
        ports = [int(port) for port in json.loads(memory.read_text("utf-8"))]
    except (OSError, ValueError, TypeError):
        ports = []
    return (ports + [0] * 2 * count)[: 2 * count]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
    return True


def free_ports(wanted: list[int]) -> list[int]:
    """Keep the wanted ports that are free and fill the rest; all held at once, so all differ."""
    probes: list[socket.socket] = []
    try:
        for port in wanted:
            probe = socket.socket()
            probes.append(probe)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def write_properties(node: Node, nodes: list[Node]) -> None:
    """Write what the node reads at its start."""
    node.folder.mkdir(parents=True, exist_ok=True)
    copies = min(3, len(nodes))
    voters = ",".join(f"{peer.number}@127.0.0.1:{peer.controller_port}" for peer in nodes)
    longest_ms = max(topic.retention_ms or 0 for topic in TOPICS.values())
    settings = {
        "process.roles": "broker,controller",
        "node.id": node.number,
        "controller.quorum.voters": voters,
        **_listeners(node),
        "log.dirs": node.folder / "log",
        # A topic comes from the table in schemas/topics.py, never from a typing mistake.
        "auto.create.topics.enable": "false",
        "num.partitions": 3,
        "default.replication.factor": copies,
        "min.insync.replicas": max(1, copies - 1),
        "unclean.leader.election.enable": "false",
        "offsets.topic.replication.factor": copies,
        "offsets.topic.num.partitions": 3,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": max(1, copies - 1),
        "transaction.state.log.num.partitions": 3,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": max(1, copies - 1),
        # A camera's wrong clock must not delete data.
        "log.message.timestamp.type": "LogAppendTime",
        # A stage that was off for months must find its place again.
        "offsets.retention.minutes": (longest_ms // DAY_MS + 1) * _MINUTES_A_DAY,
        # A killed broker listens again after 4 s instead of 12.
        "broker.session.timeout.ms": 2000,
        "broker.heartbeat.interval.ms": 500,
        "group.initial.rebalance.delay.ms": 0,
        # Small machine: indexes are preallocated, and the cleaner's buffer is heap.
        "log.segment.bytes": 64 * 1024 * 1024,
        "log.index.size.max.bytes": 512 * 1024,
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
        "num.network.threads": 2,
        "num.io.threads": 4,
        "background.threads": 2,
    }
    lines = (f"{name}={value}\n" for name, value in settings.items())
    node.properties_path.write_text("".join(lines), "utf-8")


def _listeners(node: Node) -> dict[str, str]:
    controller = f"CONTROLLER://127.0.0.1:{node.controller_port}"
    clients = f"PLAINTEXT://127.0.0.1:{node.port}"
    protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
    settings = {
        "listeners": f"{clients},{controller}",
        "advertised.listeners": clients,
        "listener.security.protocol.map": protocols,
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
    }
    if node.front_port is None:
        return settings
    peers = f"PEERS://127.0.0.1:{node.peer_port}"
    return settings | {
        "listeners": f"{clients},{peers},{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{node.front_port},{peers}",
        "listener.security.protocol.map": f"{protocols},PEERS:PLAINTEXT",
        "inter.broker.listener.name": "PEERS",
    }


def java_command(java: str, jars: list[Path]) -> list[str]:
    """Return the start of every command line of the broker."""
    return [
        java,
        # All of the heap from the start, and touched: a node is as large young as old, and what
        # grows then is none of the heap. 60 MB of it live under the load of a whole line.
        f"-Xms{HEAP_MB}m",
        f"-Xmx{HEAP_MB}m",
        "-XX:+AlwaysPreTouch",
        # Each network thread keeps its buffers for good; larger ones are let go.
        "-Djdk.nio.maxCachedBufferSize=1048576",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-cp",
        ":".join(str(jar) for jar in jars),
    ]


def format_storage(command: list[str], nodes: list[Node]) -> str:
    """Format the folders of nodes that are new; blocking. Returns the cluster's id.

    Raises:
        ConfigError: the storage tool refuses; the message holds its words.
    """
    known = [found for found in map(_cluster_id, nodes) if found]
    # A leading dash would read as an option of the tool.
    fresh = "L" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
    cluster_id = known[0] if known else fresh
    for node in nodes:
        if _cluster_id(node):
            continue
        answer = subprocess.run(  # noqa: S603 - our own command
            [
                *command,
                "kafka.tools.StorageTool",
                "format",
                "--cluster-id",
                cluster_id,
                "--config",
                str(node.properties_path),
            ],
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )
        if answer.returncode != 0:
            words = " ".join((answer.stderr + answer.stdout).split())[-400:]
            raise ConfigError(f"{node.folder}: the log could not be prepared: {words}")
    return cluster_id


def _cluster_id(node: Node) -> str | None:
    """Cluster id of a formatted folder, None of a new one."""
    try:
        lines = (node.folder / "log" / "meta.properties").read_text("utf-8").splitlines()
    except OSError:
        return None
    return next((line.split("=", 1)[1] for line in lines if line.startswith("cluster.id=")), None)


def read_log_tail(node: Node) -> str:
    """Return the last words of a node, for an error message."""
    try:
        text = node.log_path.read_text("utf-8", "replace")
    except OSError:
        return "nothing"
    return " ".join(text.split())[-600:] or "nothing"


def die_with_parent() -> None:
    """Ask Linux to kill this child when the thread that started it ends."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
