"""How roles are run, and what their members ask of the log."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from click.testing import CliRunner

import app.roles
from adapters.clock import SystemClock
from adapters.telemetry import PrometheusTelemetry
from app.cli.processes import worker


def test_a_role_runs_on_the_loop_of_libuv(monkeypatch: pytest.MonkeyPatch) -> None:
    loops = []

    async def run_role(role: str, _settings: object) -> int:
        loops.append((role, type(asyncio.get_running_loop())))
        return 0

    monkeypatch.setattr("app.roles.run_role", run_role)
    # Both are for good, and meant for a process of its own.
    monkeypatch.setattr("app.supervisor.die_with_parent", lambda: None)
    monkeypatch.setattr("app.logs.configure_logging", lambda _level: None)
    assert CliRunner().invoke(worker, ["record"]).exit_code == 0
    assert loops == [("record", uvloop.Loop)]


async def test_tables_let_the_log_gather_where_cores_are_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    joined: list[dict[str, Any]] = []

    def group(_name: str, *_topics: str, **options: Any) -> None:
        joined.append(options)

    fields = dict.fromkeys(("settings", "sink", "peek", "inspections"))
    resources: Any = SimpleNamespace(group=group, witness=lambda _name: None, **fields)
    monkeypatch.setattr(app.roles, "_NO_HURRY_S", 0.3)
    kit = app.roles.Kit(resources, SystemClock(), PrometheusTelemetry())
    async with app.roles.build_record(kit):
        pass
    assert [options["gather_s"] for options in joined] == [0.3]
