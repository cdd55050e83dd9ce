from __future__ import annotations

import asyncio
import sqlite3
from functools import partial
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from adapters.sql.engine import migrate, open_database, parse_url
from adapters.sql.tables import metadata
from pipeline.errors import ConfigError, DependencyDownError


def differences(connection: Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(connection), metadata))


async def test_the_migrations_make_exactly_the_tables_of_the_code(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/new folder/50%.db"
    await migrate(url)
    async with open_database(url) as database:
        assert await database.read(differences) == []


@pytest.mark.needs_postgres
async def test_the_migrations_make_the_same_tables_in_postgresql(postgres_url: str) -> None:
    from tests.tables import fresh_postgres  # noqa: PLC0415 - only this test needs a server

    async with open_database(await fresh_postgres(postgres_url)) as database:
        assert await database.read(differences) == []


async def test_processes_that_start_together_migrate_once(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/a.db"
    await asyncio.gather(*(migrate(url) for _ in range(4)))
    async with open_database(url) as database:
        assert await database.read(differences) == []


@pytest.mark.parametrize("url", ["mysql://a/b", "sqlite+aiosqlite://", "sqlite:///:memory:"])
def test_an_address_of_no_supported_database_is_a_setting_to_correct(url: str) -> None:
    with pytest.raises(ConfigError, match="LINESIDE_DATABASE__URL"):
        parse_url(url)


@pytest.mark.parametrize(
    "url",
    ["postgresql+asyncpg://nobody@127.0.0.1:9/x", "sqlite+aiosqlite:////proc/nowhere.db"],
)
async def test_a_database_that_is_away_is_a_dependency_that_is_down(url: str) -> None:
    async with open_database(url) as database:
        for call in (database.read, database.write):
            with pytest.raises(DependencyDownError) as caught:
                await call(lambda connection: connection.execute(text("SELECT 1")))
            assert caught.value.dependency == "database"
    with pytest.raises(DependencyDownError):
        await migrate(url)


async def test_sqlite_writes_are_durable_in_wal(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/a.db"
    async with open_database(url) as database:

        def pragmas(connection: Connection) -> tuple[object, ...]:
            return tuple(
                connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous")
            )

        assert await database.write(pragmas) == ("wal", 2)


async def test_a_cancelled_write_is_whole_and_its_error_rolls_back(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/a.db"
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE one (n INTEGER)")
        loop.call_soon_threadsafe(started.set)
        connection.exec_driver_sql("INSERT INTO one VALUES (1)")

    def broken(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO one VALUES (2)")
        raise LookupError

    async with open_database(url) as database:
        writing = asyncio.create_task(database.write(work))
        await started.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        with pytest.raises(LookupError):
            await database.write(broken)
    with sqlite3.connect(tmp_path / "a.db") as file:
        assert file.execute("SELECT n FROM one").fetchall() == [(1,)]
    file.close()


@pytest.mark.parametrize("cache_mb", [1, 4])
async def test_a_connection_keeps_no_more_pages_than_the_setting_says(
    tmp_path: Path, cache_mb: int
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/a.db"
    await migrate(url)
    async with open_database(url, cache_mb=cache_mb) as database:
        for run in (database.read, database.write, partial(database.write, durable=False)):
            kept = await run(lambda c: c.execute(text("PRAGMA cache_size")).scalar_one())
            assert -kept * 1024 <= cache_mb * 1_000_000
            assert -kept * 1024 > 0.99 * cache_mb * 1_000_000
