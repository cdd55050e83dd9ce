"""`lineside images send`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from app.cli.output import progress_bars
from app.client import Client
from app.data_folder import PICTURES
from pipeline.errors import RefusedError


@click.group("images")
def images() -> None:
    """Send pictures."""


@images.command("send")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--product", required=True, help="Product code.")
@click.option("--source", default="cli", show_default=True)
@click.option("--anomaly", type=click.Choice(["auto", "force", "skip"]), default="auto")
@click.option("--report", type=click.Choice(["auto", "force", "skip"]), default="auto")
@click.option("--rate", type=click.FloatRange(min=0.01), help="At most so many a second.")
@click.option("--url", help="Where Lineside listens; the local one by default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per picture.")
def send(
    *,
    paths: tuple[Path, ...],
    product: str,
    source: str,
    anomaly: str,
    report: str,
    rate: float | None,
    url: str | None,
    as_json: bool,
) -> int:
    """Send pictures, or folders of pictures; a refused one does not stop the others."""
    files = [file for path in paths for file in _pictures(path)]
    refused = 0
    fields = {"product": product, "source": source, "anomaly": anomaly, "report": report}
    with Client(url) as client, progress_bars(quiet=as_json) as bars:
        tell = bars.reporter(product)
        for number, file in enumerate(files, 1):
            began = time.monotonic()
            try:
                answer = client.call(
                    "POST",
                    "/v1/images",
                    files={"file": (file.name, file.read_bytes())},
                    data=fields,
                )
            except RefusedError as error:
                refused += 1
                answer = {"error": error.slug, "detail": error.detail}
                click.echo(f"refused {file}: {error.detail}", err=True)
            if as_json:
                click.echo(json.dumps({"file": str(file), **answer}, ensure_ascii=False))
            tell("pictures", number, len(files))
            if rate:
                time.sleep(max(0.0, 1 / rate - (time.monotonic() - began)))
    return 1 if refused else 0


def _pictures(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in PICTURES)


COMMANDS = {"images": images}
