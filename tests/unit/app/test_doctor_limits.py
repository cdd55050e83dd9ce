"""The doctor waits longer for what this machine reads than for a server's answer."""

from __future__ import annotations

import asyncio

import pytest

from app import doctor


async def slow_check() -> str:
    for _ in range(5):
        await asyncio.sleep(0)
    return "found"


@pytest.mark.parametrize(
    ("name", "state"), [("broker", "away"), ("embed weights", "ok"), ("anomaly weights", "ok")]
)
async def test_weights_on_a_busy_machine_are_no_server_that_is_away(
    name: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_LIMIT_S", 0.0)
    finding = await doctor._one(name, slow_check())
    assert finding.state == state
