"""`lineside status`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import httpx
import psutil

from adapters.kafka.admin import open_admin
from adapters.telemetry import read_exposition
from app.cli.output import table
from app.resources import bootstrap_servers, kafka_connection
from app.settings import Settings, read_settings
from pipeline.errors import LinesideError
from schemas.topics import STAGES, triggers_of

# Stages that have no role of their own, and the role that runs them.
_ROLE_OF = {"bank-build": "anomaly"}


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(*, as_json: bool) -> int:
    """Show roles, processes, readiness, lag and what workers measure, of this state folder."""
    settings = read_settings()
    found = asyncio.run(_collect(settings))
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
    elif not found["roles"]:
        click.echo(f"nothing runs in {settings.state_dir}; start it with lineside up", err=True)
    else:
        _show(found)
    return 0 if found["roles"] and all(role["ready"] for role in found["roles"].values()) else 1


def _show(found: dict[str, Any]) -> None:
    rows = [
        [
            name,
            role["pid"],
            "ready" if role["ready"] else "; ".join(role["reasons"]) or "not running",
            role["restarts"],
            found["lag"].get(name),
            _age(role["measured"].get("oldest_age_s")),
            role["measured"].get("held"),
            role["measured"].get("dead_letters"),
            ", ".join(role["measured"].get("breakers", ())),
        ]
        for name, role in found["roles"].items()
    ]
    heads = ["role", "pid", "state", "restarts", "lag", "oldest", "held", "buried", "away"]
    table(heads, rows)
    outbox = found["outbox"]
    if outbox["pending"]:
        click.echo(
            f"outbox {outbox['pending']:.0f} events wait for the broker, the oldest for "
            f"{outbox['oldest_s']:.0f} s"
        )
    if outbox["refused"]:
        click.echo(
            f"outbox {outbox['refused']:.0f} events can never be published and were set aside; "
            "lineside outbox list says why"
        )
    if found["broker"]:
        click.echo(f"broker {found['broker']}  page {found['url']}")


async def _collect(settings: Settings) -> dict[str, Any]:
    state = settings.state_dir
    noted = _read(state / "supervisor.json").get("roles", {})
    url = _read(state / "web.json").get("url")
    roles = {}
    async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
        outbox = await _outbox(client, _read(state / "roles" / "web.json").get("health_url"))
        for name, role in noted.items():
            alive = bool(role["pid"]) and psutil.pid_exists(role["pid"])
            # Not the page's own address: where tokens are set, it would ask for one.
            health = _read(state / "roles" / f"{name}.json").get("health_url")
            reasons = await _reasons(client, health) if alive else ["not running"]
            measured = await _measured(client, health) if alive else {}
            roles[name] = {
                "pid": role["pid"] if alive else None,
                "restarts": role["restarts"],
                "ready": not reasons,
                "reasons": reasons,
                "measured": measured,
            }
    lag, broker = await _lag(settings)
    return {"roles": roles, "lag": lag, "outbox": outbox, "broker": broker, "url": url}


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError):
        return {}


async def _reasons(client: httpx.AsyncClient, health: str | None) -> list[str]:
    if not health:
        return ["starting"]
    try:
        answer = await client.get(f"{health}/ready")
        return [] if answer.is_success else list(answer.json().get("reasons", ["not ready"]))
    except (httpx.TransportError, ValueError):
        return ["no answer"]


async def _outbox(client: httpx.AsyncClient, health: str | None) -> dict[str, float | None]:
    """What waits for the broker, as the web role measures it; None while nobody answers."""
    found = await _exposition(client, health)
    return {
        "pending": found.get("outbox_pending"),
        "oldest_s": found.get("outbox_oldest_seconds"),
        "refused": found.get("outbox_refused"),
    }


async def _measured(client: httpx.AsyncClient, health: str | None) -> dict[str, Any]:
    """What a worker role says of itself; nothing where it has no worker or does not answer."""
    found = await _exposition(client, health)
    if "partitions_assigned" not in found:
        return {}

    def whole(prefix: str) -> int:
        return int(sum(value for name, value in found.items() if name.startswith(prefix)))

    return {
        "oldest_age_s": round(found.get("oldest_age_seconds", 0.0), 1),
        "held": whole("records_held"),
        "in_flight": whole("records_in_flight"),
        "settled_ahead": whole("records_settled_ahead"),
        "partitions": whole("partitions_assigned"),
        "paused": whole("partitions_paused"),
        "retries": whole("events_retried_total"),
        "dead_letters": whole("dead_letters_total"),
        "member_rebuilds": whole("member_rebuilds_total"),
        "loop_lag_s": round(found.get("loop_lag_seconds", 0.0), 3),
        "breakers": _open_breakers(found),
    }


async def _exposition(client: httpx.AsyncClient, health: str | None) -> dict[str, float]:
    try:
        answer = await client.get(f"{health}/metrics")
        return read_exposition(answer.text) if answer.is_success else {}
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return {}


def _open_breakers(found: Mapping[str, float]) -> list[str]:
    """Dependencies that are away: `breaker_open{dependency="objects"}` says 1."""
    return [
        name.split('"')[1]
        for name, value in sorted(found.items())
        if name.startswith("breaker_open{") and value
    ]


def _age(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.0f} s"


async def _lag(settings: Settings) -> tuple[dict[str, int], str | None]:
    """Events that each role has not settled yet."""
    try:
        servers = bootstrap_servers(settings)
        lag: dict[str, int] = {}
        async with open_admin(kafka_connection(settings, servers)) as admin:
            for stage in STAGES:
                role = _ROLE_OF.get(stage, stage)
                behind = await admin.lag(f"lineside.{stage}", triggers_of(stage))
                lag[role] = lag.get(role, 0) + sum(item.lag_records for item in behind)
    except LinesideError:
        return {}, None
    return lag, servers


COMMANDS = {"status": status}
