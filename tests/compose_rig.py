"""The compose file without a Docker engine: its services as processes on this machine.

Only what a container network would give is substituted: host names, ports and mounted folders.
Commands, arguments, environment and health checks are the file's own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jgo
import psutil
import yaml

from adapters.kafka_runtime import KAFKA_VERSION, default_cache_dir, find_jars, find_java

ROOT = Path(__file__).parents[1]
POSTGRES = Path("/usr/lib/postgresql/15/bin")
# What the containers' scripts start, by the name that a health check calls.
KAFKA_TOOLS = {
    "/opt/kafka/bin/kafka-broker-api-versions.sh": "org.apache.kafka.tools.BrokerApiVersionsCommand"
}

SECRETS = {
    "LINESIDE_S3_ACCESS_KEY": "compose-access",
    "LINESIDE_S3_SECRET_KEY": "compose-secret-key",
    "LINESIDE_POSTGRES_PASSWORD": "compose-password",
    "LINESIDE_WEB__TOKENS": '["compose-token"]',
}


_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<rule>[-?])(?P<rest>[^}]*))?\}")


def interpolated() -> dict[str, Any]:
    """Return the file with variables interpolated as compose does, these secrets being set."""
    return dict(_interpolate(yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))))


def _interpolate(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _interpolate(value) for name, value in node.items()}
    if isinstance(node, list):
        return [_interpolate(value) for value in node]
    return _VARIABLE.sub(_value, node) if isinstance(node, str) else node


def _value(match: re.Match[str]) -> str:
    if match["name"] in SECRETS:
        return SECRETS[match["name"]]
    assert match["rule"] != "?", f"{match['name']} has no value"
    return match["rest"] or ""


def load_services() -> dict[str, Any]:
    """Return the services of the file."""
    return dict(interpolated()["services"])


@dataclass
class ComposeRig:
    """Runs services; `substitutions` replace what belongs to the container network."""

    folder: Path
    substitutions: Mapping[str, str]
    services: dict[str, Any] = field(default_factory=load_services)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def text(self, value: object) -> str:
        """Substitute in one argument or variable."""
        text = str(value)
        for name, local in self.substitutions.items():
            text = text.replace(name, local)
        return text

    def environment(self, service: str) -> dict[str, str]:
        """Environment of a service, its own variables only."""
        declared = self.services[service].get("environment", {})
        return {name: self.text(value) for name, value in declared.items() if value is not None}

    def start(self, command: Sequence[str], environment: Mapping[str, str], log: str) -> None:
        """Start a process in the background."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("LINESIDE_")}
        with (self.folder / f"{log}.log").open("wb") as output:
            self.processes.append(
                subprocess.Popen(
                    command,
                    env={**clean, **environment},
                    cwd=self.folder,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def command(self, service: str) -> list[str]:
        """Command of a service; `lineside` is this environment's."""
        return [_program(self.text(part)) for part in self.services[service]["command"]]

    def health_command(self, service: str) -> list[str]:
        """Health check of a service as an argument list."""
        test = self.services[service]["healthcheck"]["test"]
        assert test[0] == "CMD", test
        parts = [self.text(part) for part in test[1:]]
        if parts[0] in KAFKA_TOOLS:
            return [find_java(), "-cp", _tool_jars(), KAFKA_TOOLS[parts[0]], *parts[1:]]
        return [_program(part) for part in parts]

    def wait_healthy(self, service: str, *, within_s: float = 90.0) -> None:
        """Run the health check until it succeeds; fails with the log's end."""
        command = self.health_command(service)
        deadline = time.monotonic() + within_s
        while True:
            result = subprocess.run(command, capture_output=True, timeout=30, check=False)
            if result.returncode == 0:
                return
            log = self.folder / f"{service}.log"
            tail = log.read_text("utf-8", "replace")[-2000:] if log.exists() else ""
            said = result.stderr.decode()[-500:]
            assert time.monotonic() < deadline, f"{service}: {command}: {said}\n{tail}"
            time.sleep(0.2)

    def run(self, service: str, *, within_s: float = 90.0) -> str:
        """Run a service that ends by itself; returns what it printed."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("LINESIDE_")}
        result = subprocess.run(
            self.command(service),
            env={**clean, **self.environment(service)},
            cwd=self.folder,
            capture_output=True,
            timeout=within_s,
            check=False,
        )
        assert result.returncode == 0, result.stderr.decode()
        return result.stdout.decode()

    def stop(self) -> None:
        """Ask all to end, newest first, and end what does not."""
        for process in reversed(self.processes):
            children = psutil.Process(process.pid).children() if process.poll() is None else []
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for child in children:
                if child.is_running():
                    child.kill()


@cache
def _tool_jars() -> str:
    """Class path of Kafka's command line tools, which the image holds beside the broker."""
    found = jgo.build(
        f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}", cache_dir=default_cache_dir()
    )
    return ":".join(map(str, sorted(Path(found.path).resolve().glob("*/*.jar"))))


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name("lineside")) if name == "lineside" else name


def start_kafka(rig: ComposeRig) -> None:
    """Start Kafka as the image's entry point does: KAFKA_A_B becomes the property a.b."""
    environment = rig.environment("kafka")
    heap = environment.pop("KAFKA_HEAP_OPTS").split()
    properties = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in environment.items()
    }
    file = rig.folder / "server.properties"
    file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()), "utf-8")
    jars = ":".join(map(str, find_jars(default_cache_dir())))
    java = find_java()
    subprocess.run(
        [java, "-cp", jars, "kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw",
         "-c", str(file)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    rig.start([java, *heap, "-cp", jars, "kafka.Kafka", str(file)], {}, "kafka")


def start_postgres(rig: ComposeRig, port: str) -> None:
    """Start PostgreSQL as the image does on an empty volume: one user, one database."""
    environment = rig.environment("postgres")
    data = rig.folder / "pg"
    password = rig.folder / "pg.password"
    password.write_text(environment["POSTGRES_PASSWORD"], "utf-8")
    user = environment["POSTGRES_USER"]
    wrap: Callable[[list[str]], list[str]] = list
    if os.geteuid() == 0:
        shutil.chown(rig.folder, "postgres")
        for parent in rig.folder.parents:  # its user must get through to its folder
            if parent.is_relative_to("/tmp") and parent.owner() == "root":
                parent.chmod(parent.stat().st_mode | 0o711)
        shutil.chown(password, "postgres")
        wrap = lambda command: ["runuser", "-u", "postgres", "--", *command]  # noqa: E731 - one line says it
    subprocess.run(
        wrap([str(POSTGRES / "initdb"), "-D", str(data), "-U", user, "-A", "scram-sha-256",
              f"--pwfile={password}"]),
        check=True,
        capture_output=True,
    )  # fmt: skip
    server = [str(POSTGRES / "postgres"), "-D", str(data), "-p", port, "-h", "127.0.0.1",
              "-k", str(rig.folder)]  # fmt: skip
    rig.start(wrap(server), {}, "postgres")
    create = [str(POSTGRES / "createdb"), "-h", "127.0.0.1", "-p", port, "-U", user]
    secret = {**os.environ, "PGPASSWORD": environment["POSTGRES_PASSWORD"]}
    deadline = time.monotonic() + 30
    database = environment["POSTGRES_DB"]
    while subprocess.run(
        [*create, database], env=secret, capture_output=True, check=False
    ).returncode:
        assert time.monotonic() < deadline, "PostgreSQL does not start"
        time.sleep(0.1)
