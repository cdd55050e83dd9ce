"""`lineside cases import|list|search`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from app.cli.output import progress_bars, table
from app.client import Client, product_path
from app.data_folder import PICTURES, read_label

_URL = click.option("--url", help="Where Lineside listens; the local one by default.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("cases")
def cases() -> None:
    """Past cases, which the similarity search finds."""


@cases.command("import")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--product", required=True)
@click.option("--action-taken", help="What was done about them.")
@_URL
@_JSON
def import_cases(
    *, folder: Path, product: str, action_taken: str | None, url: str | None, as_json: bool
) -> None:
    """Register FOLDER/<product>_<defect type>_<number>.jpg as cases."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    by_label: dict[str | None, list[Path]] = {}
    for path in files:
        by_label.setdefault(read_label(path.name, product), []).append(path)
    results = []
    done = 0
    with Client(url) as client, progress_bars(quiet=as_json) as bars:
        tell = bars.reporter(product)
        for label, paths in by_label.items():
            fields = {"defect_type": label, "decision": "ng", "action_taken": action_taken}
            fields = {name: value for name, value in fields.items() if value}
            results += client.send_files(product_path(product, "cases"), paths, fields=fields)
            done += len(paths)
            tell("cases", done, len(files))
    if as_json:
        click.echo(json.dumps({"files": results}, ensure_ascii=False))
        return
    refused = [item for item in results if item["result"] == "refused"]
    click.echo(f"{len(results) - len(refused)} cases, {len(refused)} refused")
    for item in refused:
        click.echo(f"  {item['name']}: {item.get('detail') or item.get('reason')}")


@cases.command("list")
@click.argument("product")
@_URL
@_JSON
def list_cases(*, product: str, url: str | None, as_json: bool) -> None:
    """List the cases of a product, newest first."""
    with Client(url) as client:
        found = list(client.pages(product_path(product, "cases"), "cases"))
    if as_json:
        click.echo(json.dumps({"cases": found}, ensure_ascii=False))
        return
    table(
        ["case", "defect type", "decision", "decided", "action taken"],
        [
            [c["case_id"], c["defect_type"], c["decision"], c["decided_at"], c["action_taken"]]
            for c in found
        ],
    )


@cases.command("search")
@click.argument("picture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--product", required=True)
@click.option("-k", default=5, show_default=True, type=click.IntRange(1, 100))
@_URL
@_JSON
def search(*, picture: Path, product: str, k: int, url: str | None, as_json: bool) -> None:
    """Find the past cases that look most like PICTURE."""
    with Client(url) as client:
        answer = client.call(
            "POST",
            "/v1/search",
            files={"file": (picture.name, picture.read_bytes())},
            data={"product": product, "k": str(k)},
        )
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
        return
    table(
        ["similarity", "case", "defect type", "action taken"],
        [
            [f"{c['similarity']:.2f}", c["case_id"], c["defect_type"], c["action_taken"]]
            for c in answer["results"]
        ],
    )


COMMANDS = {"cases": cases}
