"""What a process needs from the world, opened once and closed in order."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from adapters.clock import SystemClock
from adapters.embedded_broker import read_broker_file
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.extent import KafkaDescribeLog
from adapters.kafka.fenced_sink import FencedKafkaSink
from adapters.kafka.reader import KafkaOpenReader
from adapters.kafka.sink import KafkaSink
from adapters.kafka.source import GroupMember, KafkaOpenSource, kafka_source
from adapters.kafka.witness import KafkaPeek, KafkaWitness
from adapters.objects import Objects, open_objects
from adapters.sql.arrivals import SqlArrivals
from adapters.sql.catalog import SqlCatalog
from adapters.sql.dead_letters import SqlDeadLetters
from adapters.sql.engine import Database, migrate, open_database, parse_url
from adapters.sql.inspections import SqlInspections
from adapters.sql.outbox import SqlOutbox
from adapters.sql.replays import SqlReplays
from app.settings import Settings
from pipeline.errors import ConfigError
from pipeline.ports import OpenReader
from pipeline.steady_reader import SteadyOpenReader


@dataclass(frozen=True)
class Resources:
    """Connections of one role."""

    settings: Settings
    role: str
    connection: KafkaConnection
    open_reader: OpenReader
    peek: KafkaPeek
    sink: KafkaSink
    relay_sink: FencedKafkaSink
    objects: Objects
    database: Database
    inspections: SqlInspections
    arrivals: SqlArrivals
    catalog: SqlCatalog
    outbox: SqlOutbox
    letters: SqlDeadLetters
    replays: SqlReplays
    on_append: list[Callable[[], None]] = field(default_factory=list)

    @property
    def describe_log(self) -> KafkaDescribeLog:
        """What tells which stretch of the log is there."""
        return KafkaDescribeLog(self.connection)

    def group(
        self, name: str, *topics: str, drain_budget_s: float = 30.0, gather_s: float = 0.0
    ) -> KafkaOpenSource:
        """Open sources as this role's member of the group of a stage."""
        member = GroupMember(
            group=f"lineside.{name}",
            topics=topics,
            # A killed member that comes back keeps its partitions; hosts tell replicas apart.
            instance_id=f"{name}-{socket.gethostname()}",
            drain_budget_s=drain_budget_s,
            gather_s=gather_s,
        )
        return kafka_source(self.connection, member)

    def witness(self, name: str) -> KafkaWitness:
        """Look from outside at this role's member of the group of a stage."""
        return KafkaWitness(self.connection, f"lineside.{name}")


def bootstrap_servers(settings: Settings) -> str:
    """Where Kafka is: as set, else the embedded one that runs for this state folder.

    Raises:
        ConfigError: none is set and none runs.
    """
    named = settings.kafka.bootstrap_servers or read_broker_file(settings.state_dir)
    if not named:
        raise ConfigError(
            "no Kafka: set LINESIDE_KAFKA__BOOTSTRAP_SERVERS, or start the embedded one "
            "with lineside up"
        )
    return named


def kafka_connection(settings: Settings, servers: str) -> KafkaConnection:
    """Address and credentials of the cluster."""
    kafka = settings.kafka
    password = kafka.sasl_password
    return KafkaConnection(
        bootstrap_servers=servers,
        security_protocol=kafka.security_protocol,
        sasl_mechanism=kafka.sasl_mechanism,
        sasl_username=kafka.sasl_username,
        sasl_password=password.get_secret_value() if password else None,
        ssl_cafile=kafka.ssl_cafile,
        ssl_certfile=kafka.ssl_certfile,
        ssl_keyfile=kafka.ssl_keyfile,
    )


def local_folders(settings: Settings) -> list[Path]:
    """Return the folders on this machine that fill up with what is kept."""
    folders = [settings.state_dir]
    objects = urlsplit(settings.objects_url)
    if objects.scheme == "file":
        folders.append(Path(unquote(objects.path)))
    database = parse_url(settings.database_url)
    if database.get_backend_name() == "sqlite" and database.database:
        folders.append(Path(database.database).parent)
    return [folder for folder in folders if folder.is_dir()] or [Path()]


async def migrate_tables(settings: Settings) -> None:
    """Bring the tables to this version."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    await migrate(settings.database_url)


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Objects]:
    """Open the object store alone."""
    objects = settings.objects
    async with open_objects(
        settings.objects_url,
        access_key=objects.access_key.get_secret_value() if objects.access_key else None,
        secret_key=objects.secret_key.get_secret_value() if objects.secret_key else None,
        allowed_prefixes=objects.allowed_prefixes,
    ) as store:
        yield store


@asynccontextmanager
async def open_resources(settings: Settings, role: str) -> AsyncIterator[Resources]:
    """Open what a role needs; the log is connected by whoever reads or writes first.

    Raises:
        ConfigError: a setting names nothing that exists.
    """
    connection = kafka_connection(settings, bootstrap_servers(settings))
    on_append: list[Callable[[], None]] = []

    def appended() -> None:
        for wake in on_append:
            wake()

    async with (
        open_store(settings) as objects,
        open_database(
            settings.database_url,
            cache_mb=settings.database.cache_mb,
            answer_limit_s=settings.database.answer_limit_s,
        ) as database,
    ):
        sink = KafkaSink(connection)
        # Connects when the relay takes it over.
        relay_sink = FencedKafkaSink(connection, "lineside.relay")
        try:
            yield Resources(
                settings=settings,
                role=role,
                connection=connection,
                open_reader=SteadyOpenReader(
                    KafkaOpenReader(connection), SystemClock(), KafkaDescribeLog(connection)
                ),
                peek=KafkaPeek(connection),
                sink=sink,
                relay_sink=relay_sink,
                objects=objects,
                database=database,
                inspections=SqlInspections(database, timezone=settings.site.timezone),
                arrivals=SqlArrivals(database),
                catalog=SqlCatalog(database),
                outbox=SqlOutbox(database, source=f"/lineside/{role}", on_append=appended),
                letters=SqlDeadLetters(database),
                replays=SqlReplays(database, appended),
                on_append=on_append,
            )
        finally:
            await relay_sink.close()
            await sink.close()


def note_role(settings: Settings, role: str, health_url: str) -> None:
    """Tell `up` and `status` where a role answers."""
    folder = Path(settings.state_dir) / "roles"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{role}.tmp"
    temporary.write_text(f'{{"health_url": "{health_url}"}}', "utf-8")
    temporary.replace(folder / f"{role}.json")
