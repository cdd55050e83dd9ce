"""Real servers for tests, each on a free loopback port, in a folder of the test session."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from adapters.embedded_broker import EmbeddedBroker
from app.chaos.servers import Server, find_postgres, find_s3, postgres_url
from pipeline.errors import ConfigError

IN_CI = os.environ.get("CI") == "true"
_START_LIMIT_S = 30.0


def missing(service: str, why: str) -> NoReturn:
    """Skip the test at home; fail it where every service must be there."""
    message = f"{service} is not available: {why}"
    if IN_CI:
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(check: Callable[[], bool], what: str, limit_s: float = _START_LIMIT_S) -> None:
    """Poll a condition until it holds, or fail naming it."""
    deadline = time.monotonic() + limit_s
    while not check():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {limit_s:g} s in vain: {what}")
        time.sleep(0.05)


async def until(check: Callable[[], bool], what: str, limit_s: float = 20.0) -> None:
    """Let the event loop work until a condition holds, or fail naming it."""
    deadline = time.monotonic() + limit_s
    while not check():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {limit_s:g} s in vain: {what}")
        await asyncio.sleep(0.01)


@contextmanager
def kafka_server(folder: Path) -> Iterator[str]:
    """Run Apache Kafka; yields its bootstrap servers."""
    broker = EmbeddedBroker(folder)
    # A loop and a thread of its own: the broker dies with the thread that started it, and a
    # fixture may be asked for while a test's loop runs.
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(broker.__aenter__(), loop).result()
        yield broker.bootstrap_servers
        asyncio.run_coroutine_threadsafe(broker.__aexit__(None, None, None), loop).result()
    except ConfigError as error:
        missing("Apache Kafka", str(error))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def s3_server(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Run an S3 server on a folder; yields its URL, access key and secret key."""
    s3 = find_s3(folder)
    if s3 is None:
        missing("an S3 server", "versitygw is not on PATH")
    with _running(s3.server):
        yield f"http://127.0.0.1:{s3.server.port}", s3.access_key, s3.secret_key


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """Run PostgreSQL; yields the address of an empty database for SQLAlchemy and asyncpg."""
    server = find_postgres(folder)
    if server is None:
        missing("PostgreSQL", "initdb is not installed")
    with _running(server):
        yield postgres_url(server.port)


@contextmanager
def _running(server: Server) -> Iterator[None]:
    server.start()
    try:
        yield
    finally:
        server.stop()
