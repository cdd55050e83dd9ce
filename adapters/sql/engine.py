"""Opening the database, and running transactions on it.

A transaction is a plain function on a synchronous connection: nothing but the database can be
awaited inside one. On SQLite it runs on a thread of its own, one hop for the whole transaction
(aiosqlite pays a hop for each of its four calls per statement); on PostgreSQL through asyncpg.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from pipeline.errors import ConfigError, DependencyDownError, StorageFullError, TransientError

T = TypeVar("T")
Work = Callable[[Connection], T]

# Pages that a connection to SQLite keeps, MB. It fills while the tables grow, for hours, which
# looks like a leak; and the operating system keeps the same pages once more for all processes.
DEFAULT_CACHE_MB = 4
# How long a writer waits for another process's transaction, which takes a few milliseconds.
_BUSY_TIMEOUT_MS = 15_000
_READERS = 2
# How long PostgreSQL may take for a transaction. A connection that died without a word (a machine
# or a firewall's memory gone) never answers, and TCP by itself notices after hours.
DEFAULT_ANSWER_LIMIT_S = 20.0
# At the end of the process, whoever waits still gets this long.
_CLOSE_LIMIT_S = 5.0
_LEAVE_LIMIT_S = 2.0
# PostgreSQL: serialization_failure and deadlock_detected; the transaction did nothing.
_RETRIED_STATES = frozenset({"40001", "40P01"})
_ATTEMPTS = 4
# insufficient_resources (a full disk among them) and operator_intervention.
_AWAY_CLASSES = ("53", "57")


class Database(Protocol):
    """Runs transactions; `dialect` is `sqlite` or `postgresql`."""

    dialect: str
    url: URL

    async def write(self, work: Work[T], *, durable: bool = True) -> T:
        """Run `work` in a transaction of its own, on the disk when this returns.

        Being cancelled does not interrupt it: it commits or rolls back as a whole. Without
        `durable` a power cut may undo it (never a later one alone), and no fsync is waited for.

        Raises:
            DependencyDownError: `database`, away or locked; StorageFullError when its disk is full.
            TransientError: others were in the way several times; nothing was written.
        """
        ...

    async def read(self, work: Work[T]) -> T:
        """Run `work` on one snapshot.

        Raises:
            DependencyDownError: `database`, away.
        """
        ...


def parse_url(database_url: str) -> URL:
    """Return the address of a database.

    Raises:
        ConfigError: neither SQLite nor PostgreSQL.
    """
    url = make_url(database_url)
    if url.drivername not in {"sqlite+aiosqlite", "sqlite", "postgresql+asyncpg", "postgresql"}:
        raise ConfigError(
            f"LINESIDE_DATABASE__URL: {url.drivername} is not known; "
            "use sqlite+aiosqlite:///<file> or postgresql+asyncpg://<user>@<host>/<name>"
        )
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ConfigError("LINESIDE_DATABASE__URL: SQLite needs a file, sqlite:///<file>")
        return url.set(drivername="sqlite")
    return url.set(drivername="postgresql+asyncpg")


@asynccontextmanager
async def open_database(
    database_url: str,
    *,
    cache_mb: int = DEFAULT_CACHE_MB,
    answer_limit_s: float = DEFAULT_ANSWER_LIMIT_S,
) -> AsyncIterator[Database]:
    """Open the database; its tables must be there (`migrate`).

    `cache_mb` bounds the pages that one connection to SQLite keeps; there are four of them.
    `answer_limit_s` bounds a transaction on PostgreSQL.

    Raises:
        ConfigError: no address of a supported database.
    """
    url = parse_url(database_url)
    if url.get_backend_name() == "sqlite":
        sqlite = SqliteDatabase(url, cache_mb=cache_mb)
        try:
            yield sqlite
        finally:
            await sqlite.close()
    else:
        postgres = PostgresDatabase(url, answer_limit_s=answer_limit_s)
        try:
            yield postgres
        finally:
            await postgres.close()


def _pass_json(value: Any) -> str:
    """Events are serialised by pydantic, once; anything else is written here."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def sqlite_engine(
    url: URL,
    *,
    begin: str,
    pool_size: int,
    synchronous: str = "FULL",
    cache_mb: int = DEFAULT_CACHE_MB,
) -> Engine:
    """Return an engine whose transactions start with `begin`; used by the migrations too."""
    assert url.database is not None
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        connect_args={"check_same_thread": False, "cached_statements": 512},
        json_serializer=_pass_json,
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        # The driver's own transactions start too late (at the first write) to lock early.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={_BUSY_TIMEOUT_MS}",
            "journal_mode=WAL",
            f"synchronous={synchronous}",
            "temp_store=MEMORY",
            f"cache_size=-{cache_mb * 1_000_000 // 1024}",  # negative: KiB instead of pages
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


class SqliteDatabase:
    """One file, one writing thread with its connection kept open, and a few reading ones."""

    dialect = "sqlite"

    def __init__(self, url: URL, *, cache_mb: int = DEFAULT_CACHE_MB) -> None:
        """Take the file's address; threads and connections start with their first use."""
        self.url = url
        self._writer = ThreadPoolExecutor(1, "lineside-write")
        self._readers = ThreadPoolExecutor(_READERS, "lineside-read")
        open_engine = partial(sqlite_engine, url, cache_mb=cache_mb)
        self._write_engine = open_engine(begin="BEGIN IMMEDIATE", pool_size=1)
        self._relaxed_engine = open_engine(
            begin="BEGIN IMMEDIATE", pool_size=1, synchronous="NORMAL"
        )
        self._read_engine = open_engine(begin="BEGIN", pool_size=_READERS)

    async def write(self, work: Work[T], *, durable: bool = True) -> T:
        """Run on the writing thread; transactions queue there in order."""
        engine = self._write_engine if durable else self._relaxed_engine
        return await self._on(self._writer, engine, work)

    async def read(self, work: Work[T]) -> T:
        """Run on a reading thread; WAL lets it go on beside a writer."""
        return await self._on(self._readers, self._read_engine, work)

    async def _on(self, pool: ThreadPoolExecutor, engine: Engine, work: Work[T]) -> T:
        def run() -> T:
            with engine.begin() as connection:
                return work(connection)

        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(pool, run)
        except (OperationalError, InterfaceError, PoolTimeoutError) as error:
            raise _down(error) from error

    async def close(self) -> None:
        """Finish what runs and close the file."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.shutdown()
        self._readers.shutdown()
        self._write_engine.dispose()
        self._relaxed_engine.dispose()
        self._read_engine.dispose()


class PostgresDatabase:
    """A pool of asyncpg connections."""

    dialect = "postgresql"

    def __init__(self, url: URL, *, answer_limit_s: float = DEFAULT_ANSWER_LIMIT_S) -> None:
        """Take the server's address; connections open with their first use."""
        self.url = url
        self._answer_limit_s = answer_limit_s
        self.engine: AsyncEngine = create_async_engine(
            url, pool_size=8, max_overflow=8, pool_pre_ping=False, json_serializer=_pass_json
        )
        # What a connection in the making raises: the driver's own errors come through unchanged.
        self.away: tuple[type[Exception], ...] = (OSError, PoolTimeoutError, *_driver_errors())
        self._running: set[asyncio.Task[Any]] = set()
        self._doubted_at_s = 0.0
        self._connections: WeakSet[Any] = WeakSet()
        event.listen(self.engine.sync_engine, "connect", self._note)
        event.listen(self.engine.sync_engine, "checkout", self._refuse_doubted)

    def _note(self, connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["since_s"] = time.monotonic()
        self._connections.add(connection.driver_connection)

    def _refuse_doubted(self, connection: Any, record: ConnectionPoolEntry, _: object) -> None:
        """What felled one connection felled those beside it: all of that age are made anew."""
        if record.info["since_s"] < self._doubted_at_s:
            connection.driver_connection.terminate()  # a dead one would not take leave
            raise DisconnectionError

    async def write(self, work: Work[T], *, durable: bool = True) -> T:
        """Run in a task of its own, so that a caller's cancellation cannot cut it in two."""
        task = asyncio.ensure_future(self._write(work if durable else _relaxed(work)))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _write(self, work: Work[T]) -> T:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._run(work)
            except DBAPIError as error:
                state = getattr(error.orig, "sqlstate", None)
                if state not in _RETRIED_STATES:
                    raise
                if attempt == _ATTEMPTS:
                    raise TransientError("other writers were in the way; try again") from error
        raise AssertionError

    async def read(self, work: Work[T]) -> T:
        """Run on a pooled connection."""
        return await self._run(work)

    async def _run(self, work: Work[T]) -> T:
        try:
            # Whoever is interrupted here leaves no dead connection behind in the pool.
            async with asyncio.timeout(self._answer_limit_s), self.engine.begin() as connection:
                return await connection.run_sync(work)
        except TimeoutError as error:
            self._doubted_at_s = time.monotonic()
            message = f"the database does not answer within {self._answer_limit_s:g} s"
            raise DependencyDownError("database", message) from error
        except DBAPIError as error:
            state = str(getattr(error.orig, "sqlstate", None) or "")
            if (
                error.connection_invalidated
                or isinstance(error, (OperationalError, InterfaceError))
                or state.startswith(_AWAY_CLASSES)
            ):
                raise _down(error) from error
            raise
        except self.away as error:
            raise _down(error) from error

    async def close(self) -> None:
        """Finish what runs and close the connections.

        What is not answered soon is given up: it is as unknown as after a power cut, and whoever
        asked for it does it again.
        """
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=_CLOSE_LIMIT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        try:
            async with asyncio.timeout(_LEAVE_LIMIT_S):
                await self.engine.dispose()
        except TimeoutError:
            # A dead connection is asked to take leave, and never does.
            for connection in tuple(self._connections):
                connection.terminate()
            await self.engine.dispose()


def _driver_errors() -> tuple[type[Exception], ...]:
    """Return what asyncpg raises; SQLAlchemy wraps none of it while it prepares a connection."""
    import asyncpg  # noqa: PLC0415 - not for SQLite

    return (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def _relaxed(work: Work[T]) -> Work[T]:
    def run(connection: Connection) -> T:
        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
        return work(connection)

    return run


def _down(error: Exception) -> DependencyDownError:
    cause = getattr(error, "orig", None) or error
    # SQLite names its errors, PostgreSQL numbers its own: 53100 is disk_full.
    name = getattr(cause, "sqlite_errorname", "")
    if name == "SQLITE_FULL" or getattr(cause, "sqlstate", None) == "53100":
        return StorageFullError("database", "the database's disk is full")
    return DependencyDownError("database", f"the database does not answer: {cause}")


async def migrate(database_url: str) -> None:
    """Bring the tables to this version; safe to call from several processes at once.

    Raises:
        ConfigError: no address of a supported database.
        DependencyDownError: `database`, away.
    """
    url = parse_url(database_url)
    try:
        if url.get_backend_name() == "sqlite":
            await asyncio.to_thread(_migrate_sqlite, url)
        else:
            await _migrate_postgres(url)
    except (OperationalError, InterfaceError, OSError) as error:
        raise _down(error) from error


def _migrate_sqlite(url: URL) -> None:
    assert url.database is not None
    lock = Path(url.database + ".migrating")
    lock.parent.mkdir(parents=True, exist_ok=True)
    # SQLite's own busy timeout does not cover the change to WAL, which the first connection makes.
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        engine = sqlite_engine(url, begin="BEGIN IMMEDIATE", pool_size=1)
        try:
            with engine.begin() as connection:
                _upgrade(connection)
        finally:
            engine.dispose()


async def _migrate_postgres(url: URL) -> None:
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7205759403792794)")
            await connection.run_sync(_upgrade)
    except _driver_errors() as error:
        raise _down(error) from error
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> None:
    # Imported here: only a start needs Alembic, every process needs the rest of this file.
    from alembic import command  # noqa: PLC0415 - as said above
    from alembic.config import Config  # noqa: PLC0415 - as said above

    config = Config()
    config.set_main_option(
        "script_location", str(Path(__file__).parent / "migrations").replace("%", "%%")
    )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
