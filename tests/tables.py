"""The three table ports over memory, SQLite and PostgreSQL, fresh for each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg

from adapters.memory.arrivals import MemoryArrivals
from adapters.memory.catalog import MemoryCatalog
from adapters.memory.inspections import MemoryInspections
from adapters.memory.outbox import MemoryOutbox
from adapters.memory.tables import MemoryTables
from adapters.memory.unanswered import MemoryUnanswered
from adapters.sql.arrivals import SqlArrivals
from adapters.sql.catalog import SqlCatalog
from adapters.sql.engine import Database, migrate, open_database
from adapters.sql.inspections import SqlInspections
from adapters.sql.outbox import SqlOutbox
from adapters.sql.unanswered import SqlUnanswered


@dataclass
class Tables:
    """One set of tables; `wakes` counts the calls of `on_append`."""

    outbox: Any
    inspections: Any
    arrivals: Any
    catalog: Any
    wakes: list[int]
    unanswered: Any
    database: Database | None = None


def memory_tables() -> Tables:
    tables, wakes = MemoryTables(), [0]
    outbox = MemoryOutbox(tables, source="/lineside/web", on_append=lambda: wakes.append(1))
    unanswered, arrivals = MemoryUnanswered(tables, outbox), MemoryArrivals(tables)
    inspections, catalog = MemoryInspections(tables), MemoryCatalog(tables)
    return Tables(outbox, inspections, arrivals, catalog, wakes, unanswered)


@asynccontextmanager
async def sql_tables(url: str) -> AsyncIterator[Tables]:
    async with open_database(url) as database:
        wakes = [0]
        outbox = SqlOutbox(database, source="/lineside/web", on_append=lambda: wakes.append(1))
        catalog = SqlCatalog(database)
        inspections, arrivals = SqlInspections(database), SqlArrivals(database)
        unanswered = SqlUnanswered(database)
        yield Tables(outbox, inspections, arrivals, catalog, wakes, unanswered, database)


async def fresh_sqlite(template: Path, folder: Path) -> str:
    """Copy a migrated database, which is made on first use; returns the copy's address."""
    if not os.path.exists(template):  # noqa: ASYNC240, PTH110 - a test may block its loop
        await migrate(f"sqlite+aiosqlite:///{template}")
    copy = folder / f"{uuid4().hex}.db"
    shutil.copy(template, copy)
    return f"sqlite+aiosqlite:///{copy}"


async def fresh_postgres(server_url: str) -> str:
    """Make a database of its own on a server; returns its address."""
    plain = server_url.replace("+asyncpg", "")
    connection = await asyncpg.connect(plain)
    try:
        name = f"test_{uuid4().hex}"
        known = await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = 'migrated'")
        if not known:
            await connection.execute("CREATE DATABASE migrated")
            await migrate(_named(server_url, "migrated"))
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE migrated")
    finally:
        await connection.close()
    return _named(server_url, name)


def _named(server_url: str, name: str) -> str:
    return server_url.rsplit("/", 1)[0] + f"/{name}"
