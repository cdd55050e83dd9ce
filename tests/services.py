"""Real servers for tests, each on a free loopback port, in a folder of the test session."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from adapters.embedded_broker import EmbeddedBroker
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


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


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
    program = shutil.which("versitygw")
    if program is None:
        missing("an S3 server", "versitygw is not on PATH")
    data = folder / "data"
    data.mkdir(parents=True)
    port = free_port()
    access, secret = "lineside-test", "lineside-test-secret"
    command = [program, "--access", access, "--secret", secret, "--port", f"127.0.0.1:{port}"]
    # Attributes in files of their own: not every file system of a test machine has xattrs.
    sidecar = folder / "sidecar"
    sidecar.mkdir()
    with _process([*command, "--quiet", "posix", "--sidecar", str(sidecar), str(data)], folder):
        wait_until(lambda: _answers(port), "the S3 server listens")
        yield f"http://127.0.0.1:{port}", access, secret


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """Run PostgreSQL; yields the address of an empty database for SQLAlchemy and asyncpg."""
    programs = _postgres_programs()
    if programs is None:
        missing("PostgreSQL", "initdb is not installed")
    # PostgreSQL refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    data = folder / "data"
    data.mkdir(parents=True)
    if os.geteuid() == 0:
        shutil.chown(data, user)
        for parent in (folder, *folder.parents):
            if parent.owner() == "root" and parent.is_relative_to("/tmp"):
                parent.chmod(parent.stat().st_mode | 0o755)
    port = free_port()
    run_as = user if os.geteuid() == 0 else None
    initdb = [str(programs / "initdb"), "-D", str(data), "-U", "lineside", "-A", "trust", "-N"]
    subprocess.run(
        [*initdb, "-E", "UTF8", "--locale=C.UTF-8"],
        user=run_as,
        check=True,
        capture_output=True,
        cwd="/",
    )
    server = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1"]
    with _process([*server, "-k", "", "-c", "fsync=off"], folder, run_as):
        ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL answers")
        yield f"postgresql+asyncpg://lineside@127.0.0.1:{port}/postgres"


def _postgres_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


@contextmanager
def _process(command: list[str], folder: Path, user: str | None = None) -> Iterator[None]:
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, user=user, cwd="/"
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
