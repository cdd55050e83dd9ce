"""Being the only one: an advisory lock in PostgreSQL, a locked file beside SQLite's."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import IO, Any

from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.sql.engine import Database, PostgresDatabase
from pipeline.errors import DependencyDownError
from pipeline.ports import Lease

# How often one who waits looks whether the other is gone.
_POLL_S = 0.5
_ANSWER_LIMIT_S = 5.0
_KEEPALIVE = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
}


def hold(database: Database, name: str) -> AbstractAsyncContextManager[Lease]:
    """Wait for the lease of that name and hold it until the context, or the process, ends.

    PostgreSQL gives the lock to another one as soon as our connection is gone, without telling
    us: `Lease.check` asks on that very connection. A locked file is lost with its process alone.

    Raises:
        DependencyDownError: `database`, away.
    """
    if isinstance(database, PostgresDatabase):
        return _advisory_lock(database, name)
    assert database.url.database is not None
    return _file_lock(Path(f"{database.url.database}.{name}.lock"))


class FileLease:
    """A locked file."""

    def __init__(self, file: IO[str], path: Path) -> None:
        """Take the file that was locked."""
        self._file = file
        self._path = path

    async def check(self) -> None:
        """Make sure that the name still leads to the file that we locked.

        Raises:
            DependencyDownError: somebody removed or replaced it, so that another one can lock.
        """
        try:
            is_ours = os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path))  # noqa: PTH116 - a microsecond
        except OSError:
            is_ours = False
        if not is_ours:
            raise DependencyDownError("database", f"{self._path} was removed; the lease is lost")


class SessionLease:
    """A lock of a PostgreSQL session."""

    def __init__(self, connection: AsyncConnection) -> None:
        """Take the connection that holds the lock."""
        self._connection = connection

    async def check(self) -> None:
        """Make one round trip on the session that holds the lock.

        Raises:
            DependencyDownError: it does not answer, so the lock may be another one's by now.
        """
        try:
            async with asyncio.timeout(_ANSWER_LIMIT_S):
                await self._connection.scalar(select(1))
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            message = "the connection that holds the lease is lost"
            raise DependencyDownError("database", message) from error


@asynccontextmanager
async def _file_lock(path: Path) -> AsyncIterator[FileLease]:
    # Closing the file gives the lock back, also when the process dies.
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_POLL_S)
        yield FileLease(file, path)


@asynccontextmanager
async def _advisory_lock(database: PostgresDatabase, name: str) -> AsyncIterator[SessionLease]:
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big", signed=True)
    # One number per schema, so that two installations on one server do not wait for each other.
    ask = select(func.pg_try_advisory_lock(func.hashtext(text("current_schema()")), number))
    connection = await _session(database)
    try:
        # Asked again and again: the lock may be held by another process or machine.
        while not await _answer(connection, ask):  # noqa: ASYNC110 - nothing here can wake us
            await asyncio.sleep(_POLL_S)
        yield SessionLease(connection)
    finally:
        await _give_up(connection)


async def _session(database: PostgresDatabase) -> AsyncConnection:
    """Return a connection for a lease; what the pool gives may be dead and say nothing."""
    try:
        async with asyncio.timeout(_ANSWER_LIMIT_S):
            connection = await database.engine.connect()
            connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
    except (SQLAlchemyError, *database.away) as error:  # type: ignore[misc]  # mypy knows no such tuple
        raise DependencyDownError("database", "the database does not answer") from error
    try:
        # A machine that vanished must not keep the lock for the system's two hours.
        for setting, value in _KEEPALIVE.items():
            await _answer(connection, select(func.set_config(setting, value, text("false"))))
    except DependencyDownError:
        await _give_up(connection)
        raise
    return connection


async def _give_up(connection: AsyncConnection) -> None:
    """Close for good instead of returning to the pool: a lock belongs to its session."""
    await connection.invalidate()
    await connection.close()


async def _answer(connection: AsyncConnection, question: Any) -> Any:
    try:
        async with asyncio.timeout(_ANSWER_LIMIT_S):
            return await connection.scalar(question)
    except (SQLAlchemyError, OSError) as error:  # a TimeoutError is an OSError
        raise DependencyDownError("database", "the database does not answer") from error
