"""How roles are run, and what their members ask of the log."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import uvloop
from click.testing import CliRunner

import app.anomaly_parts
import app.roles
from adapters import fast_jpeg
from adapters.clock import SystemClock
from adapters.telemetry import PrometheusTelemetry
from app.cli.processes import worker
from app.roles import Kit
from app.settings import Settings


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


def asked_of_the_log() -> tuple[Kit, list[dict[str, Any]]]:
    """A kit whose stages have nothing to work with, and what their members ask as they join."""
    asked: list[dict[str, Any]] = []

    def group(_name: str, *_topics: str, **options: Any) -> None:
        asked.append(options)

    fields = dict.fromkeys(("sink", "peek", "inspections"))
    resources: Any = SimpleNamespace(
        group=group, witness=lambda _name: None, settings=Settings(), **fields
    )
    return Kit(resources, SystemClock(), PrometheusTelemetry()), asked


@pytest.mark.parametrize("role", ["record", "llm"])
async def test_tables_and_reports_let_the_log_gather_where_cores_are_few(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.roles, "_NO_HURRY_S", 0.3)
    made: Any = MagicMock(services=())
    monkeypatch.setattr("app.llm_parts.build_parts", lambda _kit: made)
    kit, asked = asked_of_the_log()
    async with app.roles.ROLES[role](kit):
        pass
    assert [options["gather_s"] for options in asked] == [0.3]


async def test_verdicts_do_not_wait_and_a_bank_being_built_holds_up_no_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: Any = MagicMock()
    monkeypatch.setattr("app.anomaly_parts.build_parts", lambda _kit: made)
    kit, asked = asked_of_the_log()
    async with app.roles.build_anomaly(kit):
        pass
    verdicts, banks = asked
    assert (verdicts["gather_s"], banks["gather_s"]) == (0.0, 0.0)
    assert banks["drain_budget_s"] == 2.0  # the group waits twice as long as the worker does
    assert verdicts["drain_budget_s"] > banks["drain_budget_s"]


def test_verdicts_decode_by_the_fast_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = MagicMock(return_value=MagicMock(state_dict={}, sha256="0"))
    for name in ("open_extractor", "fold_batch_norms", "plan_for", "model_name", "BankLibrary"):
        monkeypatch.setattr(f"app.anomaly_parts.{name}", MagicMock())
    monkeypatch.setattr("app.anomaly_parts.load_weights", weights)
    kit = MagicMock(settings=Settings())
    made = app.anomaly_parts.build_parts(kit)
    assert made.parts.decode is fast_jpeg.decode_rgb
    assert made.fit_parts.decode is fast_jpeg.decode_rgb
