"""`lineside bank build|list|show|activate|rollback|calibrate`."""

from __future__ import annotations

import json
from typing import Any

import click

from app.cli.output import progress_bars, table
from app.client import Client, product_path
from pipeline.errors import RefusedError

_URL = click.option("--url", help="Where Lineside listens; the local one by default.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("bank")
def bank() -> None:
    """Memory banks of a product: what its good parts look like."""


def _banks(client: Client, product: str) -> list[dict[str, Any]]:
    return list(client.pages(product_path(product, "banks"), "banks"))


@bank.command("build")
@click.argument("product")
@click.option("--activate/--keep", default=True, help="Whether it judges from now on.")
@_URL
@_JSON
def build(*, product: str, activate: bool, url: str | None, as_json: bool) -> None:
    """Build a bank from the product's good photos."""
    with Client(url) as client, progress_bars(quiet=as_json) as bars:
        tell = bars.reporter(product)
        job = client.build_bank(
            product,
            on_progress=lambda state: tell(
                state.get("step") or state["state"], state.get("done") or 0, state.get("total") or 0
            ),
        )
        if activate:
            client.activate_bank(product, job["version"])
    click.echo(json.dumps(job) if as_json else f"{product}: bank {job['version']}")


@bank.command("list")
@click.argument("product")
@_URL
@_JSON
def list_banks(*, product: str, url: str | None, as_json: bool) -> None:
    """List the banks of a product, newest first."""
    with Client(url) as client:
        active = client.get(product_path(product))["active_bank"]
        banks = _banks(client, product)
    if as_json:
        click.echo(json.dumps({"active_bank": active, "banks": banks}, ensure_ascii=False))
        return
    rows = [
        [
            "●" if item["version"] == active else "",
            item["version"],
            item["normals"],
            f"{item['threshold']:.3f}",
            item["model"],
            item["occurred_at"],
        ]
        for item in banks
    ]
    table(["", "version", "normals", "threshold", "model", "built"], rows)


@bank.command("show")
@click.argument("product")
@click.argument("version")
@_URL
def show(*, product: str, version: str, url: str | None) -> None:
    """Print everything known of one bank."""
    with Client(url) as client:
        for item in _banks(client, product):
            if item["version"] == version:
                click.echo(json.dumps(item, ensure_ascii=False, indent=2))
                return
    raise RefusedError(404, "unknown_bank", f"{product} has no bank {version}; see bank list")


@bank.command("activate")
@click.argument("product")
@click.argument("version")
@_URL
def activate_version(*, product: str, version: str, url: str | None) -> None:
    """Let a bank judge from now on."""
    with Client(url) as client:
        client.activate_bank(product, version)
    click.echo(f"{product}: {version} judges now")


@bank.command("rollback")
@click.argument("product")
@_URL
def rollback(*, product: str, url: str | None) -> None:
    """Let the bank built before the active one judge again."""
    with Client(url) as client:
        active = client.get(product_path(product))["active_bank"]
        versions = [item["version"] for item in _banks(client, product)]
        older = versions[versions.index(active) + 1 :] if active in versions else []
        if not older:
            raise RefusedError(409, "no_older_bank", f"{product} has no bank before {active}")
        client.activate_bank(product, older[0])
    click.echo(f"{product}: {older[0]} judges now; it was {active}")


@bank.command("calibrate")
@click.argument("product")
@click.option("--threshold", type=click.FloatRange(min=0, min_open=True), help="A fixed one.")
@click.option("--automatic", is_flag=True, help="Back to the bank's own.")
@_URL
def calibrate(*, product: str, threshold: float | None, automatic: bool, url: str | None) -> None:
    """Set the threshold of a product, or give it back to the bank; no rebuild is needed."""
    if automatic == (threshold is not None):
        raise click.UsageError("name --threshold X or --automatic")
    with Client(url) as client:
        record = client.put_product(product, threshold=threshold)
    click.echo(f"{product}: threshold {threshold or 'of the bank'}, revision {record['revision']}")


COMMANDS = {"bank": bank}
