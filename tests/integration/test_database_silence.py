"""PostgreSQL behind a network that falls silent: nobody waits for a connection that is dead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, make_url, text

from adapters.sql.engine import PostgresDatabase, migrate, open_database, parse_url
from adapters.sql.leases import hold
from app.chaos.fault_proxy import FaultProxy
from pipeline.errors import DependencyDownError
from tests.tables import fresh_postgres

pytestmark = pytest.mark.needs_postgres

LIMIT_S = 1.0


@asynccontextmanager
async def behind_a_proxy(postgres_url: str) -> AsyncIterator[tuple[FaultProxy, str]]:
    url = make_url(await fresh_postgres(postgres_url))
    async with FaultProxy("database") as proxy:
        assert url.port
        proxy.aim(url.port)
        shown = url.set(host="127.0.0.1", port=proxy.port)
        yield proxy, shown.render_as_string(hide_password=False)


def one(connection: Connection) -> int:
    return int(connection.scalar(text("SELECT 1")) or 0)


@pytest.mark.parametrize("kind", ["read", "write"])
async def test_a_dead_connection_is_given_up_and_the_next_is_a_new_one(
    postgres_url: str, kind: str
) -> None:
    async with (
        behind_a_proxy(postgres_url) as (proxy, url),
        open_database(url, answer_limit_s=LIMIT_S) as database,
    ):
        ask = database.read if kind == "read" else database.write
        # Several, so that more than one connection lies in the pool.
        assert await asyncio.gather(*(ask(one) for _ in range(8))) == [1] * 8
        await proxy.turn("half_open")
        await proxy.turn("pass")
        async with asyncio.timeout(60):
            with pytest.raises(DependencyDownError, match="does not answer within 1 s"):
                await ask(one)
            # The others of that age are not tried one by one: each would cost the limit again.
            began = time.monotonic()
            for _ in range(4):
                assert await ask(one) == 1
            assert await asyncio.gather(*(ask(one) for _ in range(4))) == [1, 1, 1, 1]
            assert time.monotonic() - began < 15


@pytest.mark.parametrize("kind", ["read", "write", "lease", "migrate"])
async def test_a_connection_that_dies_while_it_is_prepared_is_an_outage(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    connect = asyncpg.connect

    async def connect_and_lose(*args: Any, **options: Any) -> Any:
        connection = await connect(*args, **options)
        connection.terminate()
        return connection

    url = await fresh_postgres(postgres_url)
    async with open_database(url, answer_limit_s=20.0) as database:

        async def leased(work: Callable[[Connection], int]) -> int:
            async with hold(database, "relay"):
                return await database.read(work)

        monkeypatch.setattr(asyncpg, "connect", connect_and_lose)
        asks: dict[str, Any] = {
            "read": database.read, "write": database.write, "lease": leased,
            "migrate": lambda _: migrate(url),
        }  # fmt: skip
        with pytest.raises(DependencyDownError):
            await asks[kind](one)
        monkeypatch.undo()
        assert await database.read(one) == 1


async def test_a_lease_does_not_wait_on_a_dead_connection(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.sql.leases._ANSWER_LIMIT_S", LIMIT_S)
    async with (
        behind_a_proxy(postgres_url) as (proxy, url),
        open_database(url, answer_limit_s=LIMIT_S) as database,
    ):
        assert await database.read(one) == 1
        await proxy.turn("half_open")
        await proxy.turn("pass")
        async with asyncio.timeout(30):
            with pytest.raises(DependencyDownError):
                async with hold(database, "relay"):
                    pass
            async with hold(database, "relay") as lease:
                await lease.check()


async def test_the_end_does_not_wait_for_an_answer_that_never_comes(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the chaos bench: a web role told to end stayed for as long as TCP had patience."""
    monkeypatch.setattr("adapters.sql.engine._CLOSE_LIMIT_S", LIMIT_S)
    async with behind_a_proxy(postgres_url) as (proxy, url):
        database = PostgresDatabase(parse_url(url), answer_limit_s=3600)
        assert await database.read(one) == 1
        await proxy.turn("blackhole")
        waiting = asyncio.create_task(database.write(one))
        while not proxy.hits["blackhole"]:  # noqa: ASYNC110 - a proxy tells nobody
            await asyncio.sleep(0.01)
        waiting.cancel()  # as an upload is, whose client has gone; its transaction goes on
        began = time.monotonic()
        async with asyncio.timeout(30):
            await database.close()
        assert time.monotonic() - began < 15
        await asyncio.gather(waiting, return_exceptions=True)
