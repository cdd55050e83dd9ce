"""Services for tests, and two rules: no error in the background, no skip in CI."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services import IN_CI, kafka_server, postgres_server, s3_server

# As app/__init__.py: threads that spin while they wait make models ten times slower here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A run in the background ignores Ctrl-C, and so would the programs that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a real Apache Kafka with no topics yet."""
    with kafka_server(tmp_path_factory.mktemp("kafka")) as servers:
        yield servers


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    """URL, access key and secret key of a real S3 server without buckets."""
    with s3_server(tmp_path_factory.mktemp("s3")) as facts:
        yield facts


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """SQLAlchemy address of an empty PostgreSQL; tests make a database or schema of their own."""
    # Not below pytest's own folder: each session that begins closes that one to other users, and
    # the server, which is not root, dies of it minutes later.
    with (
        tempfile.TemporaryDirectory(prefix="lineside-postgres-") as folder,
        postgres_server(Path(folder)) as url,
    ):
        yield url


@pytest.fixture(autouse=True)
def background_errors(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Fail a test whose event loop was told of an error that nobody awaited.

    A test that provokes one asserts on this list and clears it.
    """
    seen: list[str] = []
    told = asyncio.BaseEventLoop.call_exception_handler

    def record(loop: asyncio.BaseEventLoop, context: dict[str, Any]) -> None:
        seen.append(f"{context.get('message')}: {context.get('exception')!r}")
        told(loop, context)

    monkeypatch.setattr(asyncio.BaseEventLoop, "call_exception_handler", record)
    yield seen
    if seen:
        pytest.fail("errors in the background: " + "; ".join(seen), pytrace=False)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print how many tests ran and how many were skipped, per folder of tests/."""
    run: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    root = config.rootpath / "tests"
    for outcome, reports in terminalreporter.stats.items():
        for report in reports:
            if not hasattr(report, "fspath") or outcome not in _COUNTED:
                continue
            path = config.rootpath / report.fspath
            folder = path.relative_to(root).parts[0] if path.is_relative_to(root) else "elsewhere"
            (skipped if outcome == "skipped" else run)[folder] += 1
    terminalreporter.section("run and skipped by folder")
    for folder in sorted(run | skipped):
        line = f"{folder:<14} {run[folder]:>5} run {skipped[folder]:>5} skipped"
        terminalreporter.write_line(line)


_COUNTED = frozenset({"passed", "failed", "error", "skipped", "xfailed", "xpassed"})


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a skipped test is a failure: there, nothing that is promised goes unchecked."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if IN_CI and reporter is not None and reporter.stats.get("skipped") and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
