"""`lineside import DIR`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from app.cli.output import progress_bars
from app.client import Client
from app.data_folder import read_data_folder
from app.importing import ImportResult, import_product, whole_folder


@click.command("import")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--product", "products", multiple=True, help="Only this one (repeatable).")
@click.option("--url", help="Where Lineside listens; the local one by default.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def import_folder(
    *, folder: Path, products: tuple[str, ...], url: str | None, as_json: bool
) -> int:
    """Bring DIR/<product>/{normal,defect,manuals} in: products, cases, banks, manuals."""
    try:
        folders = [f for f in read_data_folder(folder) if not products or f.code in products]
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    results: list[ImportResult] = []
    with Client(url) as client, progress_bars(quiet=as_json) as bars:
        results.extend(
            import_product(client, whole_folder(source), bars.reporter(source.code))
            for source in folders
        )
    if as_json:
        click.echo(json.dumps({"products": [asdict(result) for result in results]}))
        return 0
    for result in results:
        click.echo(
            f"{result.product}: {result.normals} good photos, {result.cases} cases, "
            f"{result.manuals} manuals, bank {result.bank or 'none (no good photos)'}"
        )
        for refusal in result.refused:
            click.echo(
                f"  refused {refusal['name']}: {refusal.get('detail') or refusal.get('reason')}"
            )
        for line in result.misfits:
            click.echo(f"  left out {line}")
    return 0


COMMANDS = {"import": import_folder}
