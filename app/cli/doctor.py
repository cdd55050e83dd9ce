"""`lineside doctor`."""

from __future__ import annotations

import asyncio
import json

import click
import httpx

from app.settings import read_settings


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--probe", metavar="URL", help="Only ask URL; for a container's health check.")
def doctor(*, as_json: bool, probe: str | None) -> int:
    """Make one real round trip per dependency and say what to do; fails when one is wrong."""
    if probe:
        return _probe(probe)
    from app.doctor import examine  # noqa: PLC0415 - the probe must be quick

    settings = read_settings()
    findings = asyncio.run(examine(settings))
    if as_json:
        click.echo(json.dumps({"findings": [finding._asdict() for finding in findings]}))
    else:
        marks = {"ok": "✔", "warning": "!"}
        for finding in findings:
            mark = marks.get(finding.state, "✖")
            click.echo(f"{mark} {finding.name:16} {finding.state:8} {finding.detail}")
    return 1 if any(finding.is_bad for finding in findings) else 0


def _probe(url: str) -> int:
    try:
        answer = httpx.get(url, timeout=4, trust_env=False)
    except httpx.TransportError as error:
        click.echo(f"{url}: {error}", err=True)
        return 1
    return 0 if answer.is_success else 1


COMMANDS = {"doctor": doctor}
