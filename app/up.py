"""Everything on one machine: broker, topics, tables, then every role as its own process."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from adapters.embedded_broker import EmbeddedBroker
from adapters.kafka.admin import open_admin
from app.resources import kafka_connection, migrate_tables
from app.roles import ROLES
from app.settings import Settings
from app.supervisor import Supervisor
from pipeline.errors import ConfigError, StalledError

logger = logging.getLogger(__name__)

START_LIMIT_S = 120.0
BROKER_RETRY_S = 2.0
BROKER_TOLD_EVERY_S = 60.0
# Kafka preallocates segments and the samples need room; less than this ends in a broken store.
MIN_FREE_BYTES = 1_000_000_000
EMBEDDED_PARTITIONS = 3


@dataclass(frozen=True, slots=True)
class Running:
    """A system that is up."""

    url: str
    bootstrap_servers: str
    broker: str
    supervisor: Supervisor
    embedded_broker: EmbeddedBroker | None


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def check_port(host: str, port: int, setting: str) -> None:
    """Fail early and clearly where somebody else listens.

    Raises:
        ConfigError: one line naming port and setting.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            message = f"port {port} on {host} cannot be used ({error.strerror}); set {setting}"
            raise ConfigError(message) from None


def check_room(state_dir: Path) -> None:
    """Fail before anything is written where the disk is too full for it.

    Raises:
        ConfigError: names the folder, what is free and what is needed.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(state_dir).free
    if free < MIN_FREE_BYTES:
        raise ConfigError(
            f"{free // 1_000_000} MB are free below {state_dir}, 1000 MB are needed; "
            "free some disk or set LINESIDE_STATE_DIR"
        )


@contextlib.contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """Let one `up` or `demo` own a state folder.

    Raises:
        ConfigError: another one runs, or the disk is full.
    """
    check_room(state_dir)
    with (state_dir / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = f"Lineside runs already in {state_dir}; stop it or set LINESIDE_STATE_DIR"
            raise ConfigError(message) from None
        yield


@contextlib.asynccontextmanager
async def running_system(
    settings: Settings,
    *,
    roles: Sequence[str] = tuple(ROLES),
    environment: dict[str, str] | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Running]:
    """Start everything and stop it in order: roles drain first, the broker goes last.

    Args:
        settings: as read from the environment; with no Kafka named, an embedded one is started.
        roles: which of `ROLES` to run.
        environment: more variables for the roles.
        on_step: told what is being done, for people.

    Raises:
        ConfigError: a port in use, no disk space, or another Lineside in this state folder.
    """
    state_dir = settings.state_dir.resolve()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(state_lock(state_dir))
        if "web" in roles:
            check_port(settings.web.host, settings.web.port, "LINESIDE_WEB__PORT or --port")
        variables = {"LINESIDE_STATE_DIR": str(state_dir), **(environment or {})}
        variables |= _addresses(settings)
        broker, bootstrap, name = await _broker(stack, settings, on_step)
        variables["LINESIDE_KAFKA__BOOTSTRAP_SERVERS"] = bootstrap
        on_step("topics and tables")
        connection = kafka_connection(settings, bootstrap)
        partitions = settings.kafka.partitions or (EMBEDDED_PARTITIONS if broker else 12)
        async with open_admin(connection) as admin:
            await admin.apply_topics(
                partitions=partitions, replication_factor=settings.kafka.replication_factor
            )
        await migrate_tables(settings)
        supervisor = Supervisor(state_dir, variables)
        stack.push_async_callback(to_the_end, supervisor.stop)
        if broker is not None:
            keeper = asyncio.create_task(keep_broker(broker), name="keep-broker")
            stack.push_async_callback(_cancel, keeper)
        shutil.rmtree(state_dir / "roles", ignore_errors=True)
        for role in roles:
            supervisor.start(role, sys.executable, "-m", "app.cli", "worker", role)
        url = f"http://{_reachable(settings.web.host)}:{settings.web.port}"
        (state_dir / "web.json").write_text(json.dumps({"url": url, "pid": os.getpid()}), "utf-8")
        on_step("roles")
        await wait_ready(state_dir, url, roles, supervisor)
        yield Running(url, bootstrap, name, supervisor, broker)


def _addresses(settings: Settings) -> dict[str, str]:
    """Where the roles listen: the search on a free port unless the environment names one."""
    if "LINESIDE_SEARCH__URL" in os.environ or "LINESIDE_SEARCH__PORT" in os.environ:
        port, url = settings.search.port, settings.search.url
    else:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
    return {
        "LINESIDE_SEARCH__PORT": str(port),
        "LINESIDE_SEARCH__URL": url,
        "LINESIDE_WEB__HOST": settings.web.host,
        "LINESIDE_WEB__PORT": str(settings.web.port),
        "LINESIDE_WEB__TOKENS": json.dumps([t.get_secret_value() for t in settings.web.tokens]),
    }


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound


async def _broker(
    stack: contextlib.AsyncExitStack, settings: Settings, on_step: Callable[[str], None]
) -> tuple[EmbeddedBroker | None, str, str]:
    named = settings.kafka.bootstrap_servers
    if named:
        return None, named, named
    on_step("Apache Kafka")
    broker = EmbeddedBroker(settings.state_dir.resolve(), port=settings.kafka.embedded_port)
    await broker.__aenter__()
    stack.push_async_callback(to_the_end, lambda: broker.__aexit__(None, None, None))
    return broker, broker.bootstrap_servers, "embedded Apache Kafka"


async def keep_broker(broker: EmbeddedBroker) -> None:
    """Start the broker again when it dies; the roles wait for it meanwhile."""
    now = asyncio.get_running_loop().time
    told_s: float | None = None
    while True:
        try:
            await broker.wait_died()
        except StalledError as error:
            if told_s is None:
                fields = {"action": "broker_died", "reason": str(error)}
                logger.warning("the broker died and is started again", extra=fields)
        try:
            await broker.revive()
        except (ConfigError, OSError) as error:  # a full disk, for one, which gets room again
            # Tried every few seconds; its words differ each time, if only by the time of day.
            if told_s is None or now() - told_s > BROKER_TOLD_EVERY_S:
                told_s = now()
                fields = {"action": "broker_stays_away", "reason": str(error)}
                said = "the broker does not start, and is tried on: %s"
                logger.warning(said, error, extra=fields)
            await asyncio.sleep(BROKER_RETRY_S)
        else:
            if told_s is not None:
                logger.warning("the broker is back", extra={"action": "broker_back"})
            told_s = None


async def to_the_end(stop: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Take one step of an orderly stop, although a signal cancels who waits for it meanwhile."""
    stopping = asyncio.create_task(stop())
    while not stopping.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(stopping)
    stopping.result()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def wait_ready(
    state_dir: Path, url: str, roles: Sequence[str], supervisor: Supervisor
) -> None:
    """Wait until every role says that it can work.

    Raises:
        ConfigError: a role did not get there; names its reason and its log.
    """
    deadline = asyncio.get_running_loop().time() + START_LIMIT_S
    async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
        for role in roles:
            reason = "has not started"
            while True:
                reason = await _not_ready(client, state_dir, url, role) or ""
                if not reason:
                    break
                child = supervisor.children[role]
                late = asyncio.get_running_loop().time() > deadline
                # A wrong setting ends a role with 2: starting it again cannot help.
                if late or child.last_exit_code == 2 or child.restarts > 3:
                    log = state_dir / "logs" / f"{role}.log"
                    raise ConfigError(f"{role} does not get ready: {reason}{_last_line(log)}")
                await asyncio.sleep(0.05)


async def _not_ready(client: httpx.AsyncClient, state_dir: Path, url: str, role: str) -> str | None:
    try:
        note = json.loads((state_dir / "roles" / f"{role}.json").read_text("utf-8"))
        answer = await client.get(f"{note['health_url']}/ready")
        if answer.status_code == 200 and role == "web":
            # Its port opens on its own; of its paths only this one asks for no token.
            answer = await client.get(f"{url}/health")
        if answer.status_code == 200:
            return None
        return ", ".join(map(str, answer.json().get("reasons", ()))) or "not ready"
    except (OSError, ValueError, KeyError, httpx.TransportError):
        return "no answer yet"


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return f"; its log {log} ends: {lines[-1]}" if lines else f"; see {log}"
