"""A whole system to break: every role a process, every connection through a fault proxy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr

from adapters.embedded_broker import EmbeddedBroker
from adapters.embedded_node import Node
from adapters.kafka.connection import KafkaConnection
from app.chaos.fault_proxy import FaultProxy
from app.chaos.schedule import Ground
from app.chaos.scripted_llm import ScriptedLlm
from app.chaos.servers import S3Access, Server, find_postgres, find_s3, postgres_url
from app.settings import (
    DatabaseSettings,
    KafkaSettings,
    LlmSettings,
    ObjectSettings,
    Settings,
    WebSettings,
)
from app.up import Running, free_port, running_system

PARTITIONS = 3
_BUCKET = "lineside"
# A report takes a second or two, so that a kill can come in the middle of one.
_PACE_S = 0.03


@dataclass(frozen=True, slots=True)
class System:
    """What runs, and the ways past the proxies for whoever judges it.

    `direct` are the settings of a client that nothing disturbs; `parts` names what was found
    on this machine, for people.
    """

    running: Running
    broker: EmbeddedBroker
    proxies: Mapping[str, FaultProxy]
    servers: Mapping[str, Server]
    llm: ScriptedLlm
    direct: Settings
    ground: Ground
    parts: Mapping[str, str]

    @property
    def connection(self) -> KafkaConnection:
        """The cluster, past the proxies."""
        return KafkaConnection(self.broker.direct_servers)

    @property
    def url(self) -> str:
        """The web role."""
        return self.running.url


@asynccontextmanager
async def open_system(
    folder: Path, *, brokers: int, on_step: Callable[[str], None]
) -> AsyncIterator[System]:
    """Start everything below `folder`, servers first; stop it in the reverse order.

    Raises:
        ConfigError: something does not start; one line says what and why.
    """
    async with AsyncExitStack() as stack:
        s3, database = await _find_servers(folder, stack, on_step)
        servers = {"objects": s3.server} if s3 else {}
        if database is not None:
            servers["database"] = database
        ground = Ground(brokers, tuple(servers))
        proxies = {
            name: await stack.enter_async_context(FaultProxy(name))
            for name in (*ground.lines, *ground.nodes)
        }
        for name, server in servers.items():
            proxies[name].aim(server.port)
        llm = await stack.enter_async_context(ScriptedLlm(pace_s=_PACE_S))
        proxies["llm-server"].aim(llm.port)

        def advertise(node: Node) -> int:
            return proxies[f"broker-{node.number}"].aim(node.port)

        on_step("Apache Kafka")
        state = folder / "state"
        broker = EmbeddedBroker(state, nodes=brokers, advertise=advertise)
        await stack.enter_async_context(broker)
        ports = {name: proxy.port for name, proxy in proxies.items()}
        settings = _settings(state, broker.bootstrap_servers, ports, s3, brokers)
        direct_ports = {name: server.port for name, server in servers.items()}
        direct = _settings(state, broker.direct_servers, direct_ports, s3, brokers)
        running = await stack.enter_async_context(
            running_system(settings, environment=_environment(settings), on_step=on_step)
        )
        parts = {
            "broker": f"Apache Kafka, {brokers} node{'s' if brokers > 1 else ''}",
            "objects": "versitygw" if s3 else "a local directory",
            "database": "PostgreSQL" if database else "SQLite",
        }
        yield System(running, broker, proxies, servers, llm, direct, ground, parts)


async def _find_servers(
    folder: Path, stack: AsyncExitStack, on_step: Callable[[str], None]
) -> tuple[S3Access | None, Server | None]:
    on_step("servers")
    s3 = await asyncio.to_thread(find_s3, folder / "s3")
    database = await asyncio.to_thread(find_postgres, folder / "postgres")
    for server in (s3.server if s3 else None, database):
        if server is not None:
            stack.callback(server.stop)
            await asyncio.to_thread(server.start)
    return s3, database


def _settings(
    state: Path, servers: str, ports: Mapping[str, int], s3: S3Access | None, brokers: int
) -> Settings:
    objects = ObjectSettings()
    if s3 is not None:
        endpoint = quote(f"http://127.0.0.1:{ports['objects']}", safe="")
        objects = ObjectSettings(
            url=f"s3://{_BUCKET}?endpoint={endpoint}",
            access_key=SecretStr(s3.access_key),
            secret_key=SecretStr(s3.secret_key),
        )
    database = SecretStr(postgres_url(ports["database"])) if "database" in ports else None
    llm_port = ports.get("llm-server")
    return Settings(
        state_dir=state,
        kafka=KafkaSettings(
            bootstrap_servers=servers, partitions=PARTITIONS, replication_factor=brokers
        ),
        objects=objects,
        database=DatabaseSettings(url=database),
        llm=LlmSettings(base_url=f"http://127.0.0.1:{llm_port}" if llm_port else None),
        web=WebSettings(port=free_port()),
    )


def _environment(settings: Settings) -> dict[str, str]:
    """What the roles must know that `running_system` does not tell them."""
    variables = {}
    if settings.llm.base_url:
        variables["LINESIDE_LLM__BASE_URL"] = settings.llm.base_url
    if settings.database.url:
        variables["LINESIDE_DATABASE__URL"] = settings.database.url.get_secret_value()
    objects = settings.objects
    if objects.url and objects.access_key and objects.secret_key:
        variables["LINESIDE_OBJECTS__URL"] = objects.url
        variables["LINESIDE_OBJECTS__ACCESS_KEY"] = objects.access_key.get_secret_value()
        variables["LINESIDE_OBJECTS__SECRET_KEY"] = objects.secret_key.get_secret_value()
    return variables
