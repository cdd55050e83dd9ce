"""Being the only one: an advisory lock in PostgreSQL, a locked file beside SQLite's."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

from adapters.sql.engine import Database, PostgresDatabase
from pipeline.errors import DependencyDownError

# How often one who waits looks whether the other is gone.
_POLL_S = 0.5


def hold(database: Database, name: str) -> AbstractAsyncContextManager[None]:
    """Wait for the lease of that name and hold it until the context, or the process, ends.

    Raises:
        DependencyDownError: `database`, away.
    """
    if isinstance(database, PostgresDatabase):
        return _advisory_lock(database, name)
    assert database.url.database is not None
    return _file_lock(Path(f"{database.url.database}.{name}.lock"))


@asynccontextmanager
async def _file_lock(path: Path) -> AsyncIterator[None]:
    # Closing the file gives the lock back, also when the process dies.
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_POLL_S)
        yield


@asynccontextmanager
async def _advisory_lock(database: PostgresDatabase, name: str) -> AsyncIterator[None]:
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big", signed=True)
    # One number per schema, so that two installations on one server do not wait for each other.
    ask = select(func.pg_try_advisory_lock(func.hashtext(text("current_schema()")), number))
    try:
        connection = await database.engine.connect()
        connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
    except (SQLAlchemyError, OSError) as error:
        raise DependencyDownError("database", "the database does not answer") from error
    try:
        # Asked again and again: the lock may be held by another process or machine.
        while not await connection.scalar(ask):  # noqa: ASYNC110 - nothing here can wake us
            await asyncio.sleep(_POLL_S)
        yield
    finally:
        # Closed for good, not returned to the pool: the lock belongs to the session.
        await connection.invalidate()
        await connection.close()
